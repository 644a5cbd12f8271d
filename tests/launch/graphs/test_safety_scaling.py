"""The method safety_scaling: a fine-tuning for each share, measured alike."""

from __future__ import annotations

from typing import Any

import pytest

from launch.graph import Graph, references
from launch.graphs.methods import build
from launch.graphs.safety_scaling import named
from launch.pipeline import PipelineConfig
from llamatrain.config.compose import compose
from llamatrain.errors import UserError

METHOD = "method=safety_scaling"


def graph(*overrides: str) -> Graph:
    cfg, built = compose("pipeline", PipelineConfig, [METHOD, *overrides]), Graph()
    build(built, cfg, cfg.data)
    return built


def settings(built: Graph, stage: str) -> dict[str, Any]:
    return dict(built.stages[stage].settings)


def test_variants_differ_in_their_share_alone_and_the_whole_is_the_chats_sft() -> None:
    built, chat = graph("preset=demo"), graph("preset=demo", "method=chat")
    variants = [name for name in built.stages if name.startswith("sft")]
    assert variants == [*(f"sft_safety_{share}" for share in (0, 1, 10, 25, 50)), "sft"]
    for name in variants[:-1]:
        own = settings(built, name)
        assert own.pop("train") == [f"@world/dialogues.jsonl@adversarial{name.rpartition('_')[2]}%"]
        assert own == {key: value for key, value in settings(built, "sft").items() if key != "train"}
    # What a run of the chat pipeline has made is what this one needs.
    shared = [name for name in built.stages if name in chat.stages and name != "evaluate"]
    assert [built.stages[name] for name in shared] == [chat.stages[name] for name in shared] and len(shared) == 11
    for name, stage in built.stages.items():
        assert set(references(stage.settings)) < {*built.stages} - {name}


def test_every_variant_answers_both_sets_of_prompts_scored_by_both_models() -> None:
    built = graph("preset=demo", "safety_shares=[0.005,0.5]")
    models = ["safety_0_5", "safety_50", "safety_100"]
    for name, prompts in (("evaluate_borderline", "prompts_borderline"), ("evaluate", "prompts_eval")):
        assert list(settings(built, name)["models"]) == models
        for model in models:
            sample = settings(built, f"sample_{name.removeprefix('evaluate').strip('_')}_{model}".replace("__", "_"))
            assert sample["prompts"] == [f"@world/{prompts}.jsonl"]
            assert (sample["helpfulness"], sample["safety"]) == tuple(
                f"@v1_reward_{kind}/final" for kind in ("helpfulness", "safety")
            )
    assert list(built.stages)[-1] == "evaluate"  # the last evaluation is the report's


def test_own_data_need_dialogues_and_what_else_is_missing_is_named() -> None:
    own = ["data.documents=t.jsonl", "data.dialogues=d.jsonl@without0/10", "data.prompts_eval=p.jsonl"]
    built = graph(*own)
    assert settings(built, "sft_safety_10")["train"] == ["d.jsonl@without0/10@adversarial10%"]
    assert any(line.startswith("false refusals of borderline prompts") for line in built.left_out)
    assert any(line.startswith("safety scores: need data.preferences.safety") for line in built.left_out)
    with pytest.raises(UserError, match=r"method=safety_scaling: need data\.dialogues"):
        graph("data.documents=t.jsonl")
    with pytest.raises(UserError, match=r"safety_shares=\[0\.0, 2\.0\]: need numbers from 0 to 1"):
        graph("safety_shares=[0,2]")


def test_borderline_prompts_are_measured_by_the_chat_graph_where_they_are_given() -> None:
    built = graph("preset=demo", "method=chat", "data.prompts_borderline=b.jsonl")
    assert settings(built, "sample_borderline_ppo")["prompts"] == ["b.jsonl"]
    assert list(settings(built, "evaluate_borderline")["models"]) == ["base", "sft", "rs_v1", "ppo"]


@pytest.mark.parametrize(
    ("share", "name"), [(0.0, "safety_0"), (0.07, "safety_7"), (0.005, "safety_0_5"), (1.0, "safety_100")]
)
def test_a_variant_is_named_by_its_per_cent(share: float, name: str) -> None:
    assert named(share) == name
