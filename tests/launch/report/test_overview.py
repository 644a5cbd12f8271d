"""The page opens with what was trained, on how much, by what, what came out; and with the chain."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from launch.report.overview import examples, overview, stages
from launch.story import Story

from ..synthetic import make


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A finished pipeline's folder, with a base model of 1,500,000 parameters."""
    folder = make(tmp_path / "demo")
    final = folder / "pretrain" / "final"
    final.mkdir()
    header = json.dumps({"a": {"shape": [1000, 1000]}, "b": {"shape": [500_000]}, "__metadata__": {}}).encode()
    (final / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    shape = {"num_hidden_layers": 4, "hidden_size": 128, "vocab_size": 1024}
    (final / "config.json").write_text(json.dumps(shape))
    return folder


def test_rounds_that_learned_from_as_much_are_told_once(demo: Path) -> None:
    story = Story(demo)
    (name, stage), *rest = list(story.trained.items())[1:]
    story.trained = {name: stage, "rs_v1": stage, "rs_v2": stage, **dict(rest)}
    assert f"3 times 30 dialogues ({name} to rs_v2)" in " ".join(overview(story)["sentences"])


def test_the_story_says_what_how_much_how_long_and_what_came_out(demo: Path) -> None:
    found = overview(Story(demo))
    trained, learned, came_out = found["sentences"]
    assert trained.startswith(
        "A Llama model of 1.50M parameters was trained from raw text to a chat assistant in 24 stages"
    )
    assert trained.endswith("min on EPYC (2 cores).") and "30 dialogues (sft)" in learned
    assert came_out.startswith(
        "By the gold judge, on 800 held-out prompts, helpfulness went from 0.520 for sft to 0.770 for ppo"
    )
    assert not found["unfinished"] and [card.title for card in found["charts"]] == ["Helpfulness", "Safety"]
    facts = dict(found["facts"])
    assert facts["Model"] == "4 layers of width 128, a vocabulary of 1,024"
    assert facts["Commit"] == "abc123" and facts["Command"] == "llamatrain pipeline preset=demo"


def test_without_a_judge_the_reward_models_say_what_came_out(tmp_path: Path) -> None:
    *_, came_out = overview(Story(make(tmp_path / "tales", judge=False)))["sentences"]
    assert came_out.startswith("By the reward models, on") and "safety score went" in came_out


def test_what_is_not_done_is_said_and_drawn(demo: Path) -> None:
    for name in ("evaluate", "judge_ppo"):
        shutil.rmtree(demo / name)
    (demo / "rate" / "status.json").write_text(
        '{"state": "waiting", "reason": "waits for ratings/v1.jsonl: preferences"}'
    )
    (demo / "ppo" / "status.json").write_text('{"state": "failed"}')
    description = json.loads((demo / "pipeline.json").read_text())
    (demo / "pipeline.json").write_text(
        json.dumps({**description, "left_out": ["perplexity: need data.documents_eval"]})
    )
    story = Story(demo)
    said = overview(story)["unfinished"]
    assert said == "20 of 24 stages done; rate waits for ratings/v1.jsonl: preferences; ppo failed"
    found = stages(story) or {}
    assert found["left_out"] == ["perplexity: need data.documents_eval"]
    for drawing in found["drawings"].values():
        kinds = [str(shape.attributes["class"]) for shape in drawing.shapes if shape.tag == "rect"]
        assert kinds.count("stage done") == 20 and kinds.count("stage planned") == 2
        assert kinds.count("stage waiting") == kinds.count("stage failed") == 1


def test_boxes_bear_sizes_and_their_models_colours(demo: Path) -> None:
    story = Story(demo)
    for drawing in (stages(story) or {})["drawings"].values():
        texts = " ".join(shape.text for shape in drawing.shapes)
        assert "1.50M parameters" in texts and "40 judgements" not in texts and "120 judgements" in texts
        assert {
            str(shape.attributes["class"]) for shape in drawing.shapes if "bar" in str(shape.attributes["class"])
        } == {f"bar c{story.colours[model]}" for model in ("base", "sft", "rs", "ppo")}
        for shape in drawing.shapes:
            if shape.tag == "rect":
                left, top, wide, tall = (float(shape.attributes[key]) for key in ("x", "y", "width", "height"))
                assert left >= 0 and top >= 0 and left + wide <= drawing.width and top + tall <= drawing.height


def test_a_single_run_has_no_chain(demo: Path) -> None:
    single = demo.parent / "single"
    shutil.copytree(demo / "reward_safety", single)
    assert stages(Story(single)) is None and examples(Story(single)) is None


def test_models_that_nobody_sampled_yet_are_told_by_their_stages(demo: Path) -> None:
    for path in [*demo.glob("sample_*"), *demo.glob("judge*"), demo / "evaluate"]:
        shutil.rmtree(path)
    story = Story(demo)
    assert list(story.trained) == ["pretrain", "sft", "rs", "ppo"] and story.colours["sft"] == 1
    assert overview(story)["sentences"][0].startswith("A Llama model of 1.50M parameters")


def test_a_long_command_is_shortened(demo: Path) -> None:
    description = json.loads((demo / "pipeline.json").read_text())
    description["command"] += [f"pretrain.steps={i}" for i in range(20)]
    (demo / "pipeline.json").write_text(json.dumps(description))
    assert (
        dict(overview(Story(demo))["facts"])["Command"] == "llamatrain pipeline preset=demo … (in full under Lineage)"
    )
