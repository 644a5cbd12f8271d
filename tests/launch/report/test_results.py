"""Rounds are held against one baseline, in what counts on each kind of prompt."""

from __future__ import annotations

import json
from pathlib import Path

from launch.report.results import results
from launch.story import Story

from ..synthetic import make


def test_win_rates_over_the_baseline_are_drawn_by_kind(tmp_path: Path) -> None:
    found = results(Story(make(tmp_path / "demo"))) or {}
    assert found["baseline"] == "sft"
    harmless, adversarial = found["rounds"]
    assert harmless.title == "Helpfulness: win rate over sft" and harmless.note.endswith("on harmless prompts")
    assert adversarial.title == "Safety: win rate over sft"
    names = [shape.text for shape in harmless.drawing.shapes if shape.attributes.get("class") == "name"]
    assert names == ["rs", "ppo"]  # sft itself is compared with base


def test_without_a_baseline_there_is_no_course_of_rounds(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    path = next(folder.glob("*/evaluation.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "baseline": None}))
    found = results(Story(folder)) or {}
    assert found["rounds"] == [] and found["differences"]
