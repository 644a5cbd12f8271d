"""Rounds are held against one baseline, in what counts on each kind of prompt."""

from __future__ import annotations

import json
from pathlib import Path

from launch.report.page import page
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


def test_recall_is_told_by_turn_of_every_model(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    assert (results(Story(folder)) or {})["courses"] == []
    path = next(folder.glob("*/evaluation.json"))
    found = json.loads(path.read_text())
    for model, turns in {"sft": (2, 4), "rs": (2, 4, 20)}.items():
        recalled = {f"recall_turn_{turn}": {"mean": 1 / turn, "low": 0.0, "high": 0.9, "count": 60} for turn in turns}
        found["models"][model] |= recalled
    path.write_text(json.dumps(found))
    shown = results(Story(folder)) or {}
    (course,) = shown["courses"]
    drawn, card = course["cards"]
    assert drawn.drawing is not None and card.table.head == ["Model", "Turn 2", "Turn 4", "Turn 20"]
    cells = [[cell if isinstance(cell, str) else cell.text for cell in row] for row in card.table.rows]
    assert cells == [["sft", "0.500", "0.250", "–"], ["rs", "0.500", "0.250", "0.050"]]
    others = [head for card in shown["means"] for head in card.table.head]
    assert not any("ecall" in head for head in others)
    assert "How long an instruction is kept to" in page(Story(folder))
