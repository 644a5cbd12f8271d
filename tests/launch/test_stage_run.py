"""A stage's run folder fills in what its program says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.stage_run import Amount, StageRun
from launch.story import Story
from llamatrain.runs import parameters

from .synthetic import make


@pytest.mark.parametrize(
    ("number", "written"),
    [(1_433_600, "1.43M"), (6.74e9, "6.74B"), (4500, "4,500"), (30, "30"), (0.25, "0.250"), (0, "0")],
)
def test_amounts_are_written_for_people(number: float, written: str) -> None:
    assert f"{Amount(number)}" == written


def test_descriptions_are_filled_in_from_settings_metrics_and_files(tmp_path: Path) -> None:
    stages = {stage.name: stage for stage in Story(make(tmp_path / "demo")).stages}
    sft, rs = stages["sft"], stages["rs"]
    assert sft.told("{rows of train} dialogues, seed {run.seed}") == ""  # a dot would be an attribute
    assert sft.told("{rows of train} of {kind} in {step} steps") == "30 of helpfulness in 300 steps"
    assert rs.told("{rows of responses}, {rows of best}") == "120, 30"
    assert rs.told("loss {train/loss}").startswith("loss 0.")
    for absent in ("{parameters}", "{tokens}", "{rows of nothing}", "{misspelt}"):
        assert rs.told(f"before {absent} after") == ""


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x05\x00\x00\x00\x00\x00\x00\x00[1,2]", b"\xff" * 8])
def test_weights_that_cannot_be_read_have_no_size(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert parameters(tmp_path) == 0
    assert StageRun("x", "pretrain", tmp_path, []).told("{parameters} parameters") == ""
