"""The command line: exit codes, who speaks, how a process ends, and sweeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamatrain.config import program
from llamatrain.errors import UserError
from llamatrain.stopping import Stopped

from .conftest import Example


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    ("ranks", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True),  # the first of another machine
        ({"RANK": "one", "WORLD_SIZE": "2"}, True),
        ({"RANK": "2", "WORLD_SIZE": "2"}, True),
    ],
)
def test_one_rank_of_a_machine_says_what_is_wrong(
    ranks: dict[str, str], speaks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        program.main("example", Example, lambda cfg: None, ["steps=none"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: steps=none") == speaks


@pytest.mark.usefixtures("example")
def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def run(*argv: str, task: object = None) -> int:
        with pytest.raises(SystemExit) as stop:
            program.main("example", Example, task or (lambda c: seen.append(c.steps)), argv)  # type: ignore[arg-type]
        return int(stop.value.code or 0)

    def fail(error: Exception) -> object:
        def task(_: Example) -> None:
            raise error

        return task

    assert run("steps=4") == 0 and seen == [4]
    assert run("steps=4", "nonsense") == 2 and "nonsense" in capsys.readouterr().err
    assert run("steps=4", task=fail(UserError("optim.lr is wrong"))) == 2
    assert capsys.readouterr().err == "error: optim.lr is wrong\n"
    assert run("steps=4", task=fail(Stopped("SIGTERM at step 3"))) == 75
    assert capsys.readouterr().err == "stopped: SIGTERM at step 3\n"
    assert run("steps=4", task=fail(PermissionError(13, "Permission denied", "a/file"))) == 2
    assert capsys.readouterr().err == "error: a/file cannot be read or written: Permission denied\n"
    assert run("steps=4", task=fail(UserError("two\nlines"))) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert run("steps=4", task=fail(RuntimeError("bug"))) == 1 and "Traceback" in capsys.readouterr().err
    assert run("--cfg", "job", "steps=4") == 0 and "steps: 4" in capsys.readouterr().out
    assert run("preset=quick", "--cfg", "job") == 0 and "steps: 3" in capsys.readouterr().out
    assert run("--cfg", "job") == 0 and "steps: ???" in capsys.readouterr().out
    assert run("--local_rank=1", "steps=5") == 0 and seen == [4, 5]
    assert run("--fast") == 2 and "unknown option --fast" in capsys.readouterr().err


END = """
import atexit, sys
from llamatrain.config import program
atexit.register(print, "exit functions run")
class Last:
    def __del__(self, say=print): say("the interpreter finalizes")
last = Last()
sys.argv = ["toyworld", *sys.argv[1:]]
program.main("toyworld", dict, lambda _: None)
"""


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--fast", 2)])
def test_a_program_ends_before_the_interpreter_finalizes(argument: str, code: int, repository: Path) -> None:
    # There gloo's threads would abort it (tests/distributed/test_end.py); whatever is registered for the exit is done.
    command = [sys.executable, "-c", END, argument]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("exit functions run\n")


@pytest.mark.usefixtures("example")
def test_multirun_gives_every_job_a_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[list[str]] = []

    def start(command: list[str]) -> int:
        started.append(command[2:])
        return 3 if len(started) == 2 else 0

    def run(*argv: str) -> int:
        with pytest.raises(SystemExit) as stop:
            program.main("example", Example, lambda _: None, argv)
        return int(stop.value.code or 0)

    monkeypatch.setattr(program, "_run", start)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="example.__main__"))
    assert run("-m", "run.name=rates", "optim.lr=1e-3,2e-3", "steps=1,2", "ratio=0.1") == 3  # the first failure's
    assert [job[-1] for job in started] == [
        f"run.name='rates/{number}_optim.lr={rate},steps={steps}'"
        for number, (rate, steps) in enumerate([("0.001", 1), ("0.001", 2), ("0.002", 1), ("0.002", 2)])
    ]
    assert started[1][:-1] == ["example", "run.name=rates", "optim.lr=0.001", "steps=2", "ratio=0.1"]
    assert run("-m", "steps=1", "run.name=x") == 2 and "several values" in capsys.readouterr().err
    assert run("-m", "steps=1,2", "run.name=null") == 2 and "need run.name" in capsys.readouterr().err
