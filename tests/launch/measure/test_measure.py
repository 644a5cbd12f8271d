"""Measuring kept checkpoints: each as the last one is, and none twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import programs
from launch.measure.__main__ import measure
from launch.measure.config import MeasureConfig
from launch.measure.stages import measuring, read_by
from launch.plan import Place, Planned
from launch.processes import Processes
from launch.stage import Runner, console, write_plan
from llamatrain import manifest
from llamatrain.config.compose import compose
from llamatrain.description import Program
from llamatrain.errors import UserError

from .probe import ProbeConfig

PROBE = Program("tests.launch.measure.probe", "Measuring", "counts", schema=ProbeConfig, makes=("out.txt",))
RUN = {"dir": "runs", "resume": "auto", "wandb": {"mode": "disabled"}}


def planned(name: str, **values: Any) -> Planned:
    whole = {"checkpoint": None, "responses": None, "fails": False, **values}
    return Planned(name, "probe", whole, {**RUN, "name": name}, "", {})


STAGES = [
    planned("probed", checkpoint="@train/final"),
    planned("counted", responses="@probed/out.txt"),
    planned("other", checkpoint="@world/final"),
]


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline whose stage `train` kept two checkpoints so far."""
    monkeypatch.setitem(programs.PROGRAMS, "probe", PROBE)
    monkeypatch.chdir(tmp_path)
    for step in (10, 20):
        keep(tmp_path / "demo", step)
    plan(tmp_path / "demo", STAGES)
    return tmp_path / "demo"


def plan(folder: Path, stages: list[Planned]) -> Place:
    place = Place("demo", folder, (), None, None)
    write_plan(place, [replace(stages[0], name="train", program="pretrain", values={}), *stages], 1)
    return place


def keep(folder: Path, step: int) -> None:
    checkpoint = folder / "train/checkpoints" / f"step_{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"w" * step)
    (checkpoint / "config.json").write_text("{}")
    manifest.write(checkpoint)


def measured(demo: Path) -> list[tuple[int, float]]:
    """Measure the stage as `llamatrain measure demo/train` does; return the last stage's metric by step."""
    given = [f"checkpoints={demo / 'train'}", f"run.dir={demo}", "run.name=measured/train", "run.wandb.mode=disabled"]
    measure(compose("measure", MeasureConfig, given))
    rows = [json.loads(line) for line in (demo / "measured/train/metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["probe/bytes"]) for row in rows]


def starts(demo: Path) -> list[str]:
    return (demo.parent / "starts.txt").read_text().split()


def test_every_kept_checkpoint_is_measured_once(demo: Path) -> None:
    assert measured(demo) == [(10, 11), (20, 21)]
    assert starts(demo) == ["probed", "counted"] * 2
    assert measured(demo) == [(10, 11), (20, 21)]
    keep(demo, 30)
    assert measured(demo) == [(10, 11), (20, 21), (30, 31)]
    assert starts(demo) == ["probed", "counted"] * 3
    hashes = {manifest.fingerprint(path)[:16] for path in (demo / "train/checkpoints").iterdir()}
    assert hashes == {path.name for path in (demo / "measured/train").iterdir() if path.is_dir()}
    assert json.loads((demo / "measured/train/status.json").read_text())["state"] == "done"


def test_what_the_pipeline_knows_of_the_last_checkpoint_is_not_measured_again(demo: Path) -> None:
    (demo / "train/final").symlink_to("checkpoints/step_00000020")
    with Processes() as processes:
        runner = Runner(plan(demo, STAGES), 1, (), 60, console(), 8, "", processes)
        assert runner.run(STAGES[0]) == 0
    assert measured(demo) == [(10, 11), (20, 21)]
    assert starts(demo) == ["probed", "probed", "counted", "counted"]


def test_a_measurement_that_fails_is_named_and_the_others_stay(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(demo, [STAGES[0], planned("counted", responses="@probed/out.txt", fails=True)])
    with pytest.raises(SystemExit) as end:
        measured(demo)
    assert end.value.code == 1
    assert "error: counted of step 10 failed (exit code 1)" in capsys.readouterr().err
    plan(demo, STAGES)
    assert measured(demo) == [(10, 11), (20, 21)]
    assert starts(demo) == ["probed", "counted", "probed", "counted"]


def test_what_cannot_be_measured_is_refused(demo: Path) -> None:
    plan(demo, STAGES[2:])
    with pytest.raises(UserError, match=r"no stage of .*demo measures what train makes"):
        measured(demo)
    (demo / "train").rename(demo / "trian")
    given = [f"checkpoints={demo / 'trian'}", f"run.dir={demo}", "run.name=x"]
    with pytest.raises(UserError, match=r"need a stage of the pipeline .*demo; did you mean 'train'\?"):
        measure(compose("measure", MeasureConfig, given))


def test_of_a_comparison_of_models_the_others_are_left_out() -> None:
    rows = {name: {"checkpoint": f"@{name}/final", "responses": f"@sample_{name}/responses.jsonl"} for name in "ab"}
    stages: list[tuple[str, str, dict[str, Any]]] = [
        ("sample_a", "sample", {"checkpoint": "@a/final", "prompts": ["@world/prompts.jsonl"]}),
        ("sample_b", "sample", {"checkpoint": "@b/final", "helpfulness": "@a/final"}),
        ("judge_a", "judge", {"responses": "@sample_a/responses.jsonl", "world": "@world"}),
        ("judge_b", "judge", {"responses": "@sample_b/responses.jsonl"}),
        ("compare", "compare", {"checkpoint_a": "@a/final"}),
        ("evaluate", "evaluate", {"models": rows, "baseline": "b", "corpus": "@corpus"}),
    ]
    found = measuring(stages, "@a/final")
    assert list(found) == ["sample_a", "judge_a", "evaluate"]
    assert found["evaluate"] == {"models": {"a": rows["a"]}, "baseline": None, "corpus": "@corpus"}
    assert read_by(found, "@a/final") == [
        "@world/prompts.jsonl",
        "@sample_a/responses.jsonl",
        "@world",
        "@corpus",
    ]
