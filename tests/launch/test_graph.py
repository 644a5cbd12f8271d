"""References in overrides become paths and parents; broken graphs are refused; the presets' graphs hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.graph import Stage, ordered, read_stages, references, resolve, split_overrides
from llamatrain.config.compose import compose_dict
from llamatrain.config.presets import config_folder, load_preset
from llamatrain.errors import UserError


def stage(*overrides: str, name: str = "s") -> Stage:
    return Stage(name, "sft", overrides)


@pytest.mark.parametrize(
    ("override", "resolved", "parents"),
    [
        ("checkpoint=@sft/final", "checkpoint=runs/demo/sft/final", ["sft"]),
        ("corpus=@corpus", "corpus=runs/demo/corpus", ["corpus"]),
        ("train=[@a/x.jsonl,@b/y.jsonl]", "train=[runs/demo/a/x.jsonl,runs/demo/b/y.jsonl]", ["a", "b"]),
        ("m={base:{c:@a/final},sft: {c: @b}}", "m={base:{c:runs/demo/a/final},sft: {c: runs/demo/b}}", ["a", "b"]),
        ("t=['hh:@data/x.gz@fold0/5']", "t=['hh:/my/x.gz@fold0/5']", []),
        ("p=@rate/p.jsonl@without1/5", "p=runs/demo/rate/p.jsonl@without1/5", ["rate"]),
        ("optim@critic_optim=critic", "optim@critic_optim=critic", []),
        ("system='mail me@home'", "system='mail me@home'", []),
        ("+x=@a", "+x=runs/demo/a", ["a"]),
    ],
)
def test_references(override: str, resolved: str, parents: list[str]) -> None:
    _, _, value = override.partition("=")
    assert resolve(value, Path("runs/demo"), "/my") == resolved.partition("=")[2]
    assert stage(override).parents == parents


def test_references_are_resolved_at_any_depth_whatever_the_folder_is_called() -> None:
    values = {"a": ["@sft/final", 1], "b": {"c": "hh:@data/x@fold0/2"}, "d": None}
    found = resolve(values, Path("it's/[mine]"), 'my "data"')
    assert found == {"a": ["it's/[mine]/sft/final", 1], "b": {"c": 'hh:my "data"/x@fold0/2'}, "d": None}


def test_parents_come_first_and_otherwise_the_given_order() -> None:
    stages = [stage("a=@late", name="early"), stage(name="late"), stage(name="last")]
    assert [s.name for s in ordered(stages)] == ["late", "early", "last"]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({}, "has no stages"),
        ({"a": {"program": "sft", "set": ["x=@a/final"]}}, "wait for each other: a"),
        (
            {"a": {"program": "sft", "set": ["x=@b"]}, "b": {"program": "sft", "set": ["x=@a"]}},
            "wait for each other: a, b",
        ),
        ({"sft": {"program": "sft", "set": ["x=@sfd"]}}, "did you mean 'sft'?"),
        ({"a": {"program": "stf"}}, "no program 'stf' to run; did you mean 'sft'?"),
        ({"a": {"program": "pipeline"}}, "no program 'pipeline' to run"),
        ({"a": {"program": "sft", "sets": []}}, "need {program: NAME"),
        ({"a": {"program": "sft", "set": "x=1"}}, "'set' must be a list"),
        ({"data": {"program": "sft"}}, "need another name"),
        ({"seed": {"program": "sft"}}, "need another name"),
    ],
)
def test_broken_graphs(graph: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_stages("mine", {"stages": graph}, {})
    assert message in str(error.value)


def test_overrides_find_their_stage() -> None:
    arguments = [
        "sft.optim.lr=1",
        "+sft.x=2",
        "~sft.y",
        "ranks=2",
        "run.name=n",
        "run.wandb.mode=disabled",
        "data.root=d",
    ]
    own, staged = split_overrides(arguments, ["sft", "ppo"])
    assert own == ["ranks=2", "run.name=n", "data.root=d"]
    assert staged == {
        "sft": ["optim.lr=1", "+x=2", "~y", "run.wandb.mode=disabled"],
        "ppo": ["run.wandb.mode=disabled"],
    }
    with pytest.raises(UserError, match=r"^\+stf\.a=1: there is no stage 'stf'; did you mean 'sft'\?"):
        split_overrides(["+stf.a=1"], ["sft", "ppo"])


def test_references_only_count_in_values() -> None:
    assert references("optim@policy=adam") == []


@pytest.mark.parametrize("path", sorted((config_folder() / "preset").glob("*.yaml")), ids=lambda path: path.stem)
def test_graphs_of_the_presets_hold_and_compose(path: Path) -> None:
    content = load_preset(path.stem)
    if not content.get("stages"):
        pytest.skip("sets up single programs")
    for found in read_stages(path.stem, content, {}):
        composed = compose_dict(found.program, [f"preset={path.stem}", *found.overrides, "run.name=x"])
        missing = [key for key, value in composed.items() if value == "???"]
        assert not missing, f"{found.name} needs {missing}"
