"""A graph's stages, what refers to what, and what of the command line reaches which stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.graph import Graph, Stage, distributed, references, resolve, split_overrides
from llamatrain.errors import UserError


@pytest.mark.parametrize(
    ("value", "resolved", "parents"),
    [
        ("@sft/final", "runs/demo/sft/final", ["sft"]),
        ("@corpus", "runs/demo/corpus", ["corpus"]),
        (["@a/x.jsonl", "@b/y.jsonl"], ["runs/demo/a/x.jsonl", "runs/demo/b/y.jsonl"], ["a", "b"]),
        ({"base": {"c": "@a/final"}, "d": None}, {"base": {"c": "runs/demo/a/final"}, "d": None}, ["a"]),
        ("hh:@data/x.gz@fold0/5", "hh:/my/x.gz@fold0/5", []),
        ("@rate/p.jsonl@safety@without1/5", "runs/demo/rate/p.jsonl@safety@without1/5", ["rate"]),
        ("mail me@home", "mail me@home", []),
        (1, 1, []),
    ],
)
def test_references(value: Any, resolved: Any, parents: list[str]) -> None:
    assert resolve(value, Path("runs/demo"), "/my") == resolved
    assert list(references(value)) == parents


def test_references_are_resolved_whatever_the_folder_is_called() -> None:
    found = resolve(["@sft/final", "hh:@data/x@fold0/2"], Path("it's/[mine]"), 'my "data"')
    assert found == ["it's/[mine]/sft/final", 'hh:my "data"/x@fold0/2']


def test_stages_are_named_after_their_program_and_their_round() -> None:
    graph = Graph()
    base = graph.add("pretrain", seq_len=None)
    with graph.round(2):
        graph.add("sft", checkpoint=base.final, train=[base / "x"], models={"a": {"b": base, "c": None}})
    assert list(graph.stages) == ["pretrain", "v2_sft"]
    assert base.settings == {}  # None is left to the program
    settings = {
        "checkpoint": "@pretrain/final",
        "train": ["@pretrain/x"],
        "models": {"a": {"b": "@pretrain", "c": None}},
    }
    assert graph.stages["v2_sft"].settings == settings


def test_the_pipelines_own_keys_are_told_from_those_of_stages() -> None:
    own = ["ranks=2", "run.name=n", "data.root=d", "ppo=false"]
    staged = ["sft.optim.lr=1", "+sft.x=2", "~sft.y", "run.wandb.mode=disabled", "mixshare.safety=1"]
    assert split_overrides([*own, *staged], ["run", "data"]) == (own, staged)


STAGES = [Stage(name, program, {}) for name, program in (
    ("sft", "sft"), ("reward", "reward"), ("v1_reward_safety", "reward"), ("accuracy", "reward.evaluate"),
)]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "reached"),
    [
        (["sft.optim.lr=1", "+sft.x=2", "~sft.y"], {"sft": ["optim.lr=1", "+x=2", "~y"]}),
        (["reward.a=1"], {"reward": ["a=1"]}),  # a stage before a program
        (["reward_evaluate.a=1"], {"accuracy": ["a=1"]}),
        (["reward.evaluate.a=1"], {"accuracy": ["a=1"]}),
        (["sft.run.b=1", "run.b=2"], {name: ["run.b=2"] for name in ("reward", "v1_reward_safety", "accuracy")}
         | {"sft": ["run.b=2", "run.b=1"]}),
    ],
)  # fmt: skip
def test_overrides_find_their_stages(arguments: list[str], reached: dict[str, list[str]]) -> None:
    found = distributed(STAGES, arguments)
    assert {stage.name: list(stage.overrides) for stage in found if stage.overrides} == reached


def test_what_is_said_of_a_stage_wins_over_what_is_said_of_its_program() -> None:
    (safety,) = distributed(STAGES[2:3], ["v1_reward_safety.a=1", "reward.a=2", "reward.b=3"])
    assert safety.overrides == ("a=2", "b=3", "a=1")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+stf.a=1", r"\+stf\.a=1: there is no stage and no program 'stf'; did you mean 'sft'\?"),
        ("reward_safety.a=1", r"did you mean 'v1_reward_safety'\?"),
        ("ppo.kl_coef=1", "no stage of this pipeline runs 'ppo'"),
    ],
)
def test_a_name_that_is_neither_is_refused_with_the_nearest(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        distributed(STAGES, [argument])
