"""Models trained on growing shares of the safety data are drawn by their share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.record import Record, known_record
from launch.report.page import page
from launch.report.safety_data import safety_data, variants
from launch.story import Story

from ..synthetic import make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline's folder in which the model `sft` is a second fine-tuning's, on a tenth of the adversarial dialogues."""
    made = make(tmp_path / "demo")
    described = json.loads((made / "pipeline.json").read_text())
    for name, part in (("sft", ""), ("rs", "@adversarial10%")):
        record = known_record(made / name)
        assert record is not None
        config = {**record.config, "train.0": f"@world/dialogues.jsonl{part}"}
        Record("sft", config, record.inputs, parents=record.parents, seconds=1.0).write(made / name)
        status = json.loads((made / name / "status.json").read_text())
        (made / name / "status.json").write_text(json.dumps({**status, "program": "sft"}))
        described["stages"][name]["program"] = "sft"
        lines = (made / name / "metrics.jsonl").read_text()
        more = json.dumps({"step": 999, "sft/dialogues": 900.0 if part else 4500.0})
        (made / name / "metrics.jsonl").write_text(f"{lines}{more}\n")
    (made / "pipeline.json").write_text(json.dumps(described))
    return made


def test_variants_stand_by_share_and_the_whole_is_one_of_them(folder: Path) -> None:
    found = [(one.model, one.share, one.dialogues) for one in variants(Story(folder))]
    assert found == [("rs", 10.0, 900.0), ("sft", 100.0, 4500.0)]


def test_safety_helpfulness_and_false_refusals_are_drawn(folder: Path) -> None:
    story = Story(folder)
    found = safety_data(story) or {}
    titles = [(card.title, card.note) for card in found["cards_"]]
    assert titles[0] == ("Safety and helpfulness", "by the gold judge")
    drawing = found["cards_"][0].drawing
    texts = [shape.text for shape in drawing.shapes if shape.tag == "text"]
    assert "10 %" in texts and "100 %" in texts
    assert len([shape for shape in drawing.shapes if shape.tag == "circle"]) == 4  # two measures of two variants
    assert not found["alike"] and [row[2] for row in found["table_"].rows] == ["900", "4,500"]
    assert 'id="safety_data"' in page(story)


def test_equal_variants_are_said_and_a_usual_pipeline_has_no_such_section(folder: Path, tmp_path: Path) -> None:
    for name in ("sft", "rs"):
        with (folder / name / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 1000, "sft/dialogues": 7.0}) + "\n")
    found = safety_data(Story(folder)) or {}
    assert found["alike"]
    assert safety_data(Story(make(tmp_path / "usual"))) is None
