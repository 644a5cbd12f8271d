"""A pipeline with all that a round may add, run to its end on a little of the toy world."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamatrain.text_files import read_json
from tests.checkpoints import read_jsonl

pytestmark = pytest.mark.slow

SMALL = [
    *("preset=gatt", "ranks=1", "distill=1", "distill.preprompts=toyworld", "world.guided_fraction=0.25"),
    *("world.documents_mb=1", "world.dialogues=900", "world.instructed=400", "world.turns=60", "world.turns_eval=4"),
    *("world.prompts=300", "world.prompts_eval=40", "pretrain.steps=400", "compare.max_prompts=80"),
    *("gatt.max_dialogues=20", "recall.max_dialogues=4", "distill.max_prompts=80", "sample.max_prompts=30"),
    *("rejection_sampling.max_prompts=30", "rejection_sampling.samples_per_prompt=4", "rejection_sampling.steps=10"),
]


def test_a_round_trains_on_ghost_attention_and_on_what_is_distilled(tmp_path: Path, repository: Path) -> None:
    """Its model is young, but ends its answers: both make rows, the round takes them, and recall is measured."""
    command = [sys.executable, "-m", "launch", "pipeline", *SMALL, f"run.dir={tmp_path}", "run.name=whole"]
    env = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = tmp_path / "whole"
    stages = read_json(folder / "pipeline.json", dict)["stages"]
    assert {name for name in stages if read_json(folder / name / "status.json", dict)["state"] != "done"} == set()
    for program, file in (("gatt", "gatt.jsonl"), ("distill", "distilled.jsonl")):
        [name] = [name for name, stage in stages.items() if stage["program"] == program]
        assert read_jsonl(folder / name / file), name
        assert str(folder / name / file) in (folder / "v1_rejection_sampling/config.yaml").read_text()
    evaluation = read_json(folder / "evaluate/evaluation.json", dict)
    assert {name for name, model in evaluation["models"].items() if "recall_turn_20" in model} >= {"sft", "rs_v1"}
