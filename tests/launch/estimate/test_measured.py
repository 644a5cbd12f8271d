"""Seconds of starts, checkpoints and queues: those of a run where it measured them, scaled as said, otherwise assumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.estimate.__main__ import planned
from launch.estimate.chain import Estimated
from launch.estimate.config import PlanConfig
from launch.estimate.measured import known
from launch.forecast import Failures
from llamatrain.config.compose import compose
from llamatrain.errors import UserError

FAILURES = Failures(per_node_day=6.5e-3, save_seconds=5, publish_seconds=None, start_seconds=300, queue_seconds=600)


@pytest.fixture(scope="module")
def pretrain() -> Estimated:
    ((one,), _, _) = planned(compose("plan", PlanConfig, ["program=pretrain", "gpus=64"]), ["preset=llama2_7b"])
    return one


def run(folder: Path, **status: Any) -> Path:
    (folder / "final").mkdir(parents=True)
    (folder / "final" / "weights").write_bytes(bytes(2_000_000))
    known = {"state": "done", "program": "pretrain", "started": 1000.0, "ranks": 2}
    (folder / "status.json").write_text(json.dumps({**known, **status}))
    rows = [
        {"step": 7, "time": 900.0, "train/step_seconds": 1.0, "train/read_seconds": 0.5},  # of an attempt before
        {"step": 8, "time": 1020.0, "train/step_seconds": 1.0, "train/read_seconds": 0.5},
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def test_without_a_run_they_are_assumed(pretrain: Estimated) -> None:
    found, told = known(FAILURES, pretrain, None)
    assert found.start_seconds == 300 and found.publish_seconds == pytest.approx(94.3e9 / (8 * 2e9), rel=1e-3)
    assert told.endswith("start_seconds 300, save_seconds 5, queue_seconds 600 as configs/failures assumes")
    assert "publish_seconds 5.9 by cluster.hardware.disk_gigabytes_per_second" in told


def test_without_room_for_copies_training_waits_until_they_are_written(pretrain: Estimated, tmp_path: Path) -> None:
    small = replace(pretrain, machine=replace(pretrain.machine, node_bytes=60e9))  # 8 x 5 GB of processes, 24 of copies
    assert pretrain.work is not None
    assert pretrain.work.waits(small.machine) and not pretrain.work.waits(pretrain.machine)
    found, told = known(FAILURES, small, None)
    assert found.save_seconds == pytest.approx(94.3e9 / (8 * 2e9), rel=1e-3) and found.publish_seconds == 0
    assert "training stands still for all of 5.9 s" in told and "save_seconds 5" not in told
    measured = {"save_seconds": 0.01, "publish_seconds": 0.02}
    found, told = known(FAILURES, small, run(tmp_path / "run", measured=measured))
    assert found.save_seconds == pytest.approx(0.02 * (pretrain.work.checkpoint_bytes / 8) / 2e6)


def test_a_runs_own_are_taken_and_scaled(pretrain: Estimated, tmp_path: Path) -> None:
    measured = {"save_seconds": 0.01, "publish_seconds": 0.02, "memory_bytes": 1.0}
    found, told = known(FAILURES, pretrain, run(tmp_path / "run", measured=measured))
    assert pretrain.work is not None
    size = pretrain.work.checkpoint_bytes
    assert found.start_seconds == pytest.approx(18.5), "of the last attempt, without its first step"
    assert found.save_seconds == pytest.approx(0.01 * (size / 64) / 1e6)
    assert found.publish_seconds == pytest.approx(0.02 * (size / 8) / 2e6)
    apart = run(tmp_path / "apart", measured=measured, environment={"ranks_per_node": 1})  # two nodes of a rank each
    assert known(FAILURES, pretrain, apart)[0].publish_seconds == pytest.approx(0.02 * (size / 8) / 1e6)
    assert "checkpoints scaled from 2 MB to 94.3 GB" in told and "queue_seconds 600 as configs/failures assumes" in told


def test_a_job_tells_how_long_it_queued(pretrain: Estimated, tmp_path: Path) -> None:
    folder = run(tmp_path / "pipeline" / "pretrain")
    jobs = tmp_path / "pipeline" / "jobs"
    (jobs / "pretrain").mkdir(parents=True)
    (jobs / "jobs.json").write_text(json.dumps({"pretrain": {"job": "1", "after": [], "time": 700.0}}))
    attempt = {"job": "1", "restart": 0, "nodes": "n1", "started": 940.0, "found": [], "before": None}
    (jobs / "pretrain" / "attempts.jsonl").write_text(f"{json.dumps(attempt)}\n")
    found, told = known(FAILURES, pretrain, folder)
    assert found.queue_seconds == 240 and found.save_seconds == 5, "without measured checkpoints they stay assumed"
    assert "queue_seconds 240 as measured in" in told


def test_a_folder_without_a_run_is_refused(pretrain: Estimated, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"measured=.*: there is no run; need a run folder"):
        known(FAILURES, pretrain, tmp_path)
