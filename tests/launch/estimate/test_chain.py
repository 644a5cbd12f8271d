"""Plans of programs and pipelines: every program that runs a model has one, and what a stage makes the next ones read."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from launch.estimate.__main__ import planned
from launch.estimate.chain import Estimated, grouped, model_of, of_program, work_of
from launch.estimate.config import PlanConfig
from launch.programs import PROGRAMS, plans, schema_of
from llamatrain.config.compose import compose
from llamatrain.errors import UserError
from llamatrain.footprint import trained
from llamatrain.hardware import Machine
from llamatrain.planning import PACKED, Light, Work
from toyworld.plan import DIALOGUE

HARDWARE = compose("plan", PlanConfig, []).cluster.hardware
MACHINE = Machine(HARDWARE, 1, 8, gpus=True)


def plan_of(*overrides: str, pipeline: tuple[str, ...] = ()) -> tuple[list[Estimated], dict[str, Estimated]]:
    found, _, _ = planned(compose("plan", PlanConfig, overrides), pipeline)
    return found, {one.name: one for one in found}


def keys(program: str) -> set[str]:
    return {one.name for one in fields(schema_of(program))}


@pytest.mark.parametrize("preset", ["llama2_7b", "demo"])
def test_every_program_that_trains_or_samples_has_a_plan(preset: str) -> None:
    trains = {name for name, one in PROGRAMS.items() if one.schema is not None and "zero" in keys(name)}
    assert {"pretrain", "ppo"} <= trains <= {*plans()}
    for name, plan in plans().items():
        settings, given = of_program(name, [f"preset={preset}"])
        made = plan(settings, given)
        assert isinstance(made, Light) or made.most(MACHINE) > 0
        assert isinstance(made, Work) == bool({"zero", "dtype"} & keys(name))


def test_a_pipelines_plan_reads_what_earlier_stages_will_make() -> None:
    found, by_name = plan_of("cluster=cpu", pipeline=("preset=demo",))
    pretrain, sft, ppo = (by_name[name].work for name in ("pretrain", "sft", "ppo"))
    assert pretrain is not None and pretrain.model.vocab_size == 1024, "the tokenizer's configured size"
    assert sft is not None and sft.model.dim == ppo.model.dim == 128  # type: ignore[union-attr]
    assert sft.steps == round(2 * 4500 * DIALOGUE / (PACKED * 128) / 0.8 / 8)
    assert ppo is not None and ppo.sampled == 30 * 128 and ppo.steps == 30 * 2
    assert by_name["tokenizer"].work is None and len(found) == 24
    assert any(len(one.names) == 4 and one.program == "sample" for one in grouped(found))


def test_a_pipeline_without_data_is_planned_with_the_papers_figures() -> None:
    _, given, title = planned(compose("plan", PlanConfig, ["gpus=64"]), ["preset=llama2_7b"])
    assert title == "llama2_7b: 16 stages"
    assert any("27,540 dialogues (paper 3.1)" in said for said in given.assumed)


def test_resources_choose_a_stages_nodes() -> None:
    own = ["cluster=a100_40g_infiniband", "cluster.nodes=16", "+resources.ppo.nodes=3"]
    _, by_name = plan_of(*own, pipeline=("preset=llama2_7b",))
    assert by_name["pretrain"].machine.ranks == 128 and by_name["ppo"].machine.ranks == 24
    assert by_name["evaluate"].machine.ranks == 1, "it does not share its work"
    assert by_name["ppo"].machine.memory == 42e9


def test_rows_that_are_there_are_counted(tmp_path: Path) -> None:
    rows = tmp_path / "d.jsonl"
    rows.write_text('{"messages": []}\n' * 500)
    settings, given = of_program("sft", ["preset=llama2_7b", f"train=[{rows}]", "max_length=64", "batch_sequences=10"])
    assert given.rows(settings.train, "dialogue").count == 500 and not given.assumed


def test_gpus_are_whole_nodes() -> None:
    assert compose("plan", PlanConfig, ["gpus=4"]).cluster.gpus_per_node == 4
    assert compose("plan", PlanConfig, ["gpus=32"]).cluster.nodes == 4
    with pytest.raises(UserError, match=r"gpus=12: need a multiple of cluster.gpus_per_node=8"):
        compose("plan", PlanConfig, ["gpus=12"])
    with pytest.raises(UserError, match=r"need a cluster with GPUs"):
        compose("plan", PlanConfig, ["gpus=12", "cluster=cpu"])


def test_without_a_preset_nobody_knows_the_model() -> None:
    assert model_of([]) is None
    with pytest.raises(UserError, match=r"checkpoint=to_come: .* need preset=<name>"):
        work_of("sft", [])
    with pytest.raises(UserError, match=r"there is no plan of 'ppoo'; did you mean 'ppo'\?; need pipeline or "):
        work_of("ppoo", [])


def test_a_reward_models_states_are_those_of_a_scalar_model() -> None:
    _, by_name = plan_of("cluster=cpu", pipeline=("preset=demo",))
    one = next(one for one in by_name.values() if one.program == "reward")
    work, machine = one.work, one.machine
    assert work is not None and work.zero is not None
    ((_, held, _),) = work.phases(machine)
    scalar, language = (trained(work.model, work.zero, machine.ranks, kind, "cpu").device for kind in (True, False))
    assert held.states.device == scalar < language


def test_ratings_to_come_are_at_most_as_many_as_the_comparisons(tmp_path: Path) -> None:
    people = (f"data.ratings={tmp_path}", "people_from=2")
    _, found = plan_of(pipeline=("preset=demo", "rounds=2", *people))
    _, theirs = plan_of(pipeline=("preset=demo", "rounds=2"))
    assert found["v2_reward_safety"].work is not None
    assert 0.5 < found["v2_reward_safety"].hours[1] / theirs["v2_reward_safety"].hours[1] < 2
