"""A configuration folder with one fake program, and a graph of three stages made of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launch import pipeline, programs
from launch.graph import Graph
from llamatrain.config import presets
from llamatrain.description import Program

from .fake_program import FakeConfig

FAKE = """
run: {name: "???", dir: runs, seed: 0, save_every: 1, resume: auto, wandb: {mode: disabled, group: null}}
text: ""
number: 1
input: null
micro_batch_size: 1
wait: 0
seed: 0
"""
FAKE_PROGRAM = Program("tests.launch.fake_program", "Training", "does nothing", schema=FakeConfig, makes=("out.txt",))


def trio(g: Graph, cfg: Any, data: Any) -> None:
    """A graph of three stages, each reading the one before it."""
    first = g.add("fake", "first", text="one")
    second = g.add("fake", "second", input=first / "out.txt", number=2)
    g.add("fake", "third", input=second / "out.txt")


Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Start:
    """Run the pipeline of fake programs below tmp_path with some overrides, and return its exit code."""
    folder = tmp_path / "configs"
    (folder / "preset").mkdir(parents=True)
    (folder / "fake.yaml").write_text(FAKE)
    (folder / "preset" / "trio.yaml").write_text("fake: []")
    for program in ("pipeline", "stage"):
        shutil.copy(repository / "configs" / f"{program}.yaml", folder)
    shutil.copytree(repository / "configs" / "data", folder / "data")
    monkeypatch.setattr(pipeline, "build", trio)
    monkeypatch.setattr(presets, "config_folder", lambda: folder)
    monkeypatch.setitem(programs.PROGRAMS, "fake", FAKE_PROGRAM)
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, preset: str = "trio") -> int:
        arguments = [f"preset={preset}", "run.dir=runs", *overrides]
        monkeypatch.setattr(sys, "argv", ["pipeline", *arguments])
        with pytest.raises(SystemExit) as end:
            pipeline.main(arguments)
        return int(end.value.code or 0)

    return run
