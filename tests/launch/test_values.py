"""A fitted preset's values: every stage composes with them, batches are below an epoch and go to every rank."""

from __future__ import annotations

from typing import Any

import pytest

from launch.fitted import CONTEXTS, Fit, rate_of
from launch.graph import distributed
from launch.graphs.chat import KINDS
from launch.machine import Machine
from launch.plan import Composed, compose
from launch.programs import schema_of
from launch.roles import File, assigned
from launch.values import preset
from llamatrain.config.compose import check
from llamatrain.config.presets import config_folder
from llamatrain.model.config import ModelConfig
from llamatrain.yaml_files import read_yaml

from .test_fitted import CPU, GPUS, LARGE, some


def composed(fit: Fit) -> dict[str, Any]:
    """Return stage -> checked settings of the whole pipeline, with the fitted values."""
    graph, found, known = fit.graph, dict[str, Any](), Composed()
    values = preset(fit, "data/mine.yaml", bad=True)
    typed = [f"{name}.{one.override}" for name, values in values.items() if name != "pipeline" for one in values]
    programs = {stage.program.replace(".", "_") for stage in graph.stages.values()}
    for stage in distributed(list(graph.stages.values()), [one for one in typed if one.partition(".")[0] in programs]):
        made = compose(stage, [], None, known)
        made["run"] = {**made["run"], "name": stage.name}
        found[stage.name] = check(stage.program, schema_of(stage.program), made)
    return found


@pytest.mark.parametrize(
    ("files", "machine", "minutes"),
    [(some(), CPU, 5), (some(2, 12, 12, 60), LARGE, 30), (some(10**6, 10**5, 10**5), GPUS, 600)],
    ids=["usual", "tiny data, many cores", "much data, GPUs"],
)
def test_every_stage_composes_with_batches_that_suit(files: list[File], machine: Machine, minutes: float) -> None:
    roles = assigned(files)
    fit = Fit(roles, machine, minutes)
    stages = composed(fit)
    assert {"pretrain", "sft", "v1_reward_safety", "v1_rejection_sampling", "ppo", "evaluate"} <= stages.keys()
    ranks = fit.ranks
    base, sft, reward = stages["pretrain"], stages["sft"], stages["v1_reward_safety"]
    assert base.batch_tokens % (base.model.max_seq_len * ranks) == 0  # no rank idles
    assert base.model.max_seq_len in CONTEXTS
    assert base.batch_tokens <= fit.corpus or ranks * base.model.max_seq_len == base.batch_tokens
    assert base.total_steps >= 1
    for size in (sft.batch_sequences, stages["v1_rejection_sampling"].batch_sequences, reward.batch_pairs):
        assert size % ranks == 0
    assert stages["ppo"].mini_batch_prompts % ranks == 0
    assert sft.batch_sequences <= max(1, fit.packed(roles.parts["dialogue"]))
    assert reward.batch_pairs <= min(roles.parts[kind].rows for kind in KINDS)
    assert stages["ppo"].rollout_prompts <= roles.parts["prompt"].rows
    assert 2 * stages["ppo"].sampling.max_new_tokens <= base.model.max_seq_len
    # What stages made themselves has no bad rows: evaluate keeps stopping at one.
    stopping = {name for name, stage in stages.items() if getattr(stage, "bad_rows", "skip") != "skip"}
    assert stopping == {"evaluate"}
    assert base.zero.dtype == sft.zero.dtype == ("bfloat16" if machine.gpus else "float32")


def test_reward_models_are_cross_validated_where_it_is_said() -> None:
    files = some()
    overrides = [one.override for one in preset(Fit(assigned(files, 5), CPU, 30), "d.yaml", bad=False)["pipeline"]]
    assert "folds=5" in overrides and "data=d.yaml" in overrides
    once = [one.override for one in preset(Fit(assigned(files), CPU, 30), "d.yaml", bad=False)["pipeline"]]
    assert not any(one.startswith("folds") for one in once)


def test_every_value_has_a_reason() -> None:
    for machine in (CPU, GPUS):
        for program, values in preset(Fit(assigned(some(), 5), machine, 30), "d.yaml", bad=True).items():
            assert all(value.why for value in values), program
            assert len({value.override.partition("=")[0] for value in values}) == len(values), program


@pytest.mark.parametrize(("machine", "stage"), [(CPU, 0), (GPUS, 3)], ids=["CPU", "GPUs"])
def test_a_model_to_start_from_keeps_its_shape_and_has_its_sizes_rates(machine: Machine, stage: int) -> None:
    values = {**read_yaml(config_folder() / "model/llama2_7b.yaml"), "vocab_size": 32000}
    fit = Fit(assigned(some(), checkpoint="llama"), machine, 600, ModelConfig(**values))
    assert (fit.vocabulary, fit.sizes.parameters) == (32000, ModelConfig(**values).parameters)
    assert {"corpus", "pretrain", "sft", "ppo"} <= fit.programs.keys() and "tokenizer" not in fit.graph.stages
    told = {name: [one.override for one in values] for name, values in preset(fit, "data/mine.yaml", bad=False).items()}
    assert "continue_pretraining=true" in told["pipeline"] and "tokenizer" not in told
    assert not [one for one in told["pretrain"] if one.startswith("model")]
    stages = composed(fit)
    assert (
        stages["pretrain"].seq_len == stages["sft"].max_length == stages["v1_reward_safety"].max_length == fit.context
    )
    rates = [stages[name].optim.lr for name in ("sft", "v1_reward_safety", "ppo")]
    assert rates == pytest.approx([2e-5, 6e-6, 1.5e-6], rel=0.05)  # the paper's: 2e-5, 5e-6 to 1e-5, 1e-6
    assert stages["sft"].zero.stage == stages["ppo"].zero.stage == stage
    assert stages["sft"].activation_checkpointing == "full"


def test_dialogues_alone_are_no_texts_for_a_model_that_is_there() -> None:
    roles = assigned(some(documents=0), checkpoint="llama")
    values = {**read_yaml(config_folder() / "model/tiny.yaml"), "vocab_size": 512}
    fit = Fit(roles, CPU, 5, ModelConfig(**values))
    assert not roles.data.documents and not fit.method.continue_pretraining
    assert next(iter(fit.graph.stages)) == "sft" and "pretrain" not in preset(fit, "data/mine.yaml", bad=False)
    assert rate_of(10**5) == pytest.approx(3e-3) and 6e-4 < rate_of(5 * 10**7) < 1e-3
