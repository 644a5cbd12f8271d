"""The command line lists the programs at once, names the nearest one, and passes on codes and signals."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import cli, programs


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m launch` and return what it said."""
    environ = {**os.environ, "PYTHONPATH": str(programs.ROOT)}
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=cwd, timeout=60)


def test_help_lists_every_program_and_comes_at_once(tmp_path: Path) -> None:
    took = []
    for _ in range(3):
        started = time.monotonic()
        done = call("--help", cwd=tmp_path)
        took.append(time.monotonic() - started)
        assert done.returncode == 0
    for name, program in programs.PROGRAMS.items():
        assert f"{name}  " in done.stdout
        assert program.summary in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert min(took) < 0.3


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, launch.cli; assert not {'torch', 'hydra', 'rich', 'numpy', 'llamatrain'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=programs.ROOT)


@pytest.mark.parametrize(("typed", "meant"), [("rewrd", "reward"), ("pipelne", "pipeline"), ("evaluation", "evaluate")])
def test_an_unknown_program_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    done = call(typed)
    assert done.returncode == 2
    assert f"did you mean '{meant}'?" in done.stderr


def test_exit_codes_pass_through() -> None:
    done = call("pipeline", "preset=nonesuch")
    assert done.returncode == 2
    assert "no such preset" in done.stderr


def test_the_program_replaces_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, environ: seen.append(arguments))
    cli.main(["sft", "optim.lr=1e-3"])
    cli.main(["reward_evaluate"])
    cli.main(["corpus", "verify", "corpus=c"])
    assert seen[0] == [sys.executable, "-m", "sft", "optim.lr=1e-3"]
    assert seen[1] == [sys.executable, "-m", "reward.evaluate"]
    assert seen[2] == [sys.executable, "-m", "pretrain.corpus.verify", "corpus=c"]


def test_installed_programs_are_nested_and_not_shadowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PREFIX", "llamatrain.")
    assert programs.command("sft") == [sys.executable, "-P", "-m", "llamatrain.sft"]


@pytest.mark.parametrize("program", programs.PROGRAMS.values(), ids=list(programs.PROGRAMS))
def test_every_program_has_its_module(program: programs.Program) -> None:
    assert importlib.util.find_spec(program.module) is not None


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_every_program_has_its_configuration(name: str, repository: Path) -> None:
    assert (repository / "configs" / f"{name.replace('.', '_')}.yaml").is_file()
