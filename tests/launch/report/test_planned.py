"""What the plan says of a stage's settings stands beside what the stage took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.programs import schema_of
from launch.record import Record
from launch.report.page import page
from launch.report.planned import machine_of, planned
from launch.story import Story
from llamatrain.config.compose import compose_dict
from llamatrain.footprint import checkpoint
from llamatrain.pages.parts import Cell


def stage(folder: Path, program: str, overrides: list[str], status: dict[str, Any], step: float) -> None:
    values = compose_dict(program, ["preset=demo", *overrides], schema_of(program))
    (folder / program).mkdir(parents=True)
    Record(program, {}, {}, composed=values, seconds=90.0, ranks=2, cores=2).write(folder / program)
    seconds = {"state": "done", "program": program, "step": 3, "seconds": 88.0, "environment": {"gpu": ""}}
    (folder / program / "status.json").write_text(json.dumps({**seconds, **status}))
    rows = [{"step": number, "train/step_seconds": step * number} for number in (1, 2, 3)]
    (folder / program / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def story(tmp_path: Path) -> Story:
    folder = tmp_path / "demo"
    measured = {"measured": {"memory_bytes": 5e8, "publish_seconds": 0.25}}
    stage(folder, "pretrain", ["corpus=c", "model.vocab_size=1024", "tokenizer=t"], measured, 0.05)
    stage(folder, "sft", ["checkpoint='@pretrain/final'", "train=[d.jsonl]"], {}, 0.01)
    (folder / "pretrain" / "final").mkdir()
    (folder / "pretrain" / "final" / "weights").write_bytes(bytes(1_000_000))
    programs = {"pretrain": [], "sft": ["pretrain"]}
    stages = {name: {"program": name, "parents": parents} for name, parents in programs.items()}
    (folder / "pipeline.json").write_text(json.dumps({"name": "demo", "stages": stages}))
    return Story(folder)


def test_predicted_stands_beside_measured(story: Story) -> None:
    found = planned(story)
    assert found is not None and found["basis"] == "28 to 52 GFLOP/s per core"
    pretrain, sft = (
        [(one.text if isinstance(one, Cell) else one).replace("\u202f", " ") for one in row]
        for row in found["table"].rows
    )
    assert len(found["table"].head) == len(pretrain) == 11
    assert pretrain[0] == "pretrain" and pretrain[2] == "0.1" and pretrain[4] == "1.5 min"
    assert pretrain[6] == "500 MB" and pretrain[7].startswith(f"{checkpoint(1_066_368, 'float32') / 1e6:.3g} MB, ")
    assert pretrain[8] == "1 MB, 0.25 s"
    assert sft[2] == "0.02" and sft[8] == "–", "it reads the model that pretraining made"
    assert "Predicted and measured" in page(story)


def test_what_no_plan_can_read_is_left_out(story: Story) -> None:
    record = json.loads((story.folder / "sft" / "stage.json").read_text())
    record["composed"]["batch_sequences"] = "many"
    (story.folder / "sft" / "stage.json").write_text(json.dumps(record))
    found = planned(Story(story.folder))
    assert found is not None and len(found["table"].rows) == 1


def test_a_single_run_has_its_settings_in_its_folder(story: Story, tmp_path: Path) -> None:
    run = story.folder / "pretrain"
    values = json.loads((run / "stage.json").read_text())["composed"]
    (run / "stage.json").unlink()
    (run / "config.yaml").write_text(yaml.safe_dump(values))
    found = planned(Story(run))
    assert found is not None and len(found["table"].rows) == 1


def test_a_gpu_is_the_one_that_the_run_had(story: Story) -> None:
    path = story.folder / "sft" / "status.json"
    status = json.loads(path.read_text())
    path.write_text(json.dumps({**status, "ranks": 16, "environment": {"gpu": "NVIDIA H200", "gpu_bytes": 150e9}}))
    (story.folder / "sft" / "stage.json").unlink()
    (stage,) = (one for one in Story(story.folder).stages if one.name == "sft")
    machine = machine_of(stage)
    assert (machine.hardware.gpu, machine.hardware.gpu_gigabytes, machine.hardware.gpu_tflops) == (
        "NVIDIA H200",
        150,
        989,
    )
    assert (machine.nodes, machine.ranks_per_node) == (2, 8)
    own = {"gpu": "NVIDIA H200", "ranks_per_node": 4}
    path.write_text(json.dumps({**status, "ranks": 16, "environment": own}))
    (stage,) = (one for one in Story(story.folder).stages if one.name == "sft")
    assert (machine_of(stage).nodes, machine_of(stage).ranks_per_node) == (4, 4)
