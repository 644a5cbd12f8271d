"""How long the rest of a pipeline may take, by what was done before."""

from __future__ import annotations

from pathlib import Path

from launch.local import time_left
from launch.plan import Planned
from launch.record import Record
from llamatrain import atomic


def stage(name: str, program: str) -> Planned:
    return Planned(name, program, {}, {}, "", {})


def took(folder: Path, seconds: float, state: str = "done") -> None:
    Record("any", {}, {}, seconds=seconds).write(folder)
    atomic.write_json(folder / "status.json", {"state": state})


def test_time_left_is_by_former_runs_and_by_stages_of_the_same_program(tmp_path: Path) -> None:
    stages = [stage("sft", "sft"), stage("helpful", "reward"), stage("safe", "reward"), stage("ppo", "ppo")]
    assert time_left(stages, stages, tmp_path) == ""
    took(tmp_path / "sft", 7)
    took(tmp_path / "ppo", 5, "stopped")  # how far it came is not known
    took(tmp_path / "helpful", 40)
    assert time_left(stages[2:], stages, tmp_path) == ", at least 40 s left"
    took(tmp_path / "ppo.replaced-1", 120)
    assert time_left(stages[2:], stages, tmp_path) == ", about 2:40 min left"
    took(tmp_path / "safe.replaced-1", 10)
    assert time_left(stages[2:], stages, tmp_path) == ", about 2:10 min left"
    assert time_left([], stages, tmp_path) == ""
    took(tmp_path / "safe", 12)
    assert time_left([stage("third", "reward")], stages, tmp_path) == ", about 12 s left"  # the newest, no mean
