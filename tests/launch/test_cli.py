"""The command line lists the programs at once, names the nearest one, and passes on codes and signals."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import llamatrain
from launch import cli, programs
from llamatrain.errors import UserError


def call(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m launch` and return what it said."""
    environ = {**os.environ, "PYTHONPATH": str(programs.ROOT)}
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=cwd, timeout=60)


def test_help_lists_every_program(tmp_path: Path) -> None:
    done = call("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name, program in programs.PROGRAMS.items():
        assert f"{name}  " in done.stdout
        assert program.summary in " ".join(done.stdout.split())  # it may be wrapped
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_an_interpreter_without_any_package_lists_the_programs_and_what_it_lacks() -> None:
    """So nothing heavy is imported, either."""
    bare = [sys.executable, "-S", "-m", "launch"]  # -S: without site-packages
    done = subprocess.run([*bare, "--help"], capture_output=True, text=True, cwd=programs.ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*bare, "sft"], capture_output=True, text=True, cwd=programs.ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"has no {', '.join(programs.NEEDED.values())}: " in done.stderr


def test_no_hint_is_better_than_a_wrong_one() -> None:
    assert programs.nearest("nosuch", list(programs.PROGRAMS)) == ""


def test_version_and_a_reader_who_has_seen_enough() -> None:
    assert call("--version").stdout == f"llamatrain {llamatrain.__version__}\n"
    for arguments in ("--help", "reward.evaluate --help"):
        command = f"{sys.executable} -m launch {arguments} | head -n 1"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=programs.ROOT, timeout=60)
        assert done.stderr == ""


def test_help_and_messages_spell_a_program_as_it_is_typed() -> None:
    assert "Usage: llamatrain reward.evaluate " in call("reward_evaluate", "--help").stdout
    assert "for llamatrain reward.evaluate" in call("reward.evaluate", "run.nme=x").stderr


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(programs.NEEDED, "not_here_at_all", "not-here")
    with pytest.raises(SystemExit) as end:
        cli.main(["sft"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has no not-here: " in said
    assert "pip install" in said or "activate" in said


def test_the_needed_packages_are_those_of_the_installation(repository: Path) -> None:
    listed = re.findall(r'^        "([\w-]+)>', (repository / "setup.py").read_text().split("extras_require")[0], re.M)
    assert list(programs.NEEDED.values()) == listed


@pytest.mark.parametrize(
    ("packages", "on_path"), [("venv", True), ("venv", False), ("target", True), ("in place", True)]
)
def test_the_same_command_works_as_typed(
    packages: str, on_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "llamatrain").touch(mode=0o755)
    monkeypatch.setattr(programs, "PREFIX", "llamatrain.")
    root = tmp_path.resolve() / packages / ("checkout" if packages == "in place" else "llamatrain")
    (root / ("llamatrain" if packages == "in place" else "launch")).mkdir(parents=True)
    monkeypatch.setattr(programs, "ROOT", root)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(folder) if on_path else "/nowhere")
    monkeypatch.chdir(tmp_path)
    start = "llamatrain" if on_path else ".venv/bin/llamatrain"
    if packages == "target":  # the command on the PATH is another installation's
        start = f"{folder}/python -m llamatrain"
    assert programs.typed(["pipeline", "preset=demo"]) == f"{start} pipeline preset=demo"
    assert programs.typed(["sft", "train=[a b]"]) == f"{start} sft 'train=[a b]'"


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


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["corpus", "ranks=2"],
            "ranks=2: corpus does not share its work among ranks; those that do are distill, gatt, pretrain, sft",
        ),
        (["sft", "ranks=two"], "ranks=two: need a whole number, 1 or more"),
        (["sft", "ranks=0"], "ranks=0: need a whole number, 1 or more"),
        (["sft", "ranks=2", "--multirun", "seed=1,2"], "ranks=2: --multirun starts one process for each value"),
    ],
)
def test_ranks_that_cannot_be_are_refused(
    typed: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as end:
        cli.main(typed)
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said and said.count("\n") == 1


def test_under_a_launcher_ranks_are_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="a launcher started this as rank 1 of 4; leave ranks out"):
        cli.ranks_asked("sft", ["ranks=2"])


def test_ranks_are_taken_from_the_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert cli.ranks_asked("sft", ["a=1", "ranks=3", "b=2", "ranks=2"]) == (2, ["a=1", "b=2"])
    assert cli.ranks_asked("sft", ["ranks=2", "--help"]) == (1, ["--help"])
    assert cli.ranks_asked("sft", ["a=1"]) == (1, ["a=1"])
    assert cli.ranks_asked("pipeline", ["ranks=2"]) == (1, ["ranks=2"])  # a key of its own


def test_installed_programs_are_nested_and_not_shadowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PREFIX", "llamatrain.")
    assert programs.command("sft") == [sys.executable, "-P", "-m", "llamatrain.sft"]


@pytest.mark.parametrize("program", programs.PROGRAMS.values(), ids=list(programs.PROGRAMS))
def test_every_program_has_its_module(program: programs.Program) -> None:
    assert importlib.util.find_spec(program.module) is not None


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_every_program_has_its_configuration(name: str, repository: Path) -> None:
    assert (repository / "configs" / f"{name.replace('.', '_')}.yaml").is_file()


def test_help_of_a_program_may_come_first() -> None:
    assert call("help", "sft").stdout == call("sft", "--help").stdout != ""
    done = call("help", "nonesuch")
    assert done.returncode == 2 and "there is no program 'nonesuch'" in done.stderr


def test_the_package_itself_is_the_command_line(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(programs.ROOT)}
    command = [sys.executable, "-m", "llamatrain", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"llamatrain {llamatrain.__version__}\n")
