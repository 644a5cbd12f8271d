"""Signals before a run begins, during it, and of a terminal that is closed: always exit code 75, never a traceback."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]
FIRST_LINE = """
from llamatrain import stopping
stopping.watch(__name__)
"""
STUCK = """
import ctypes, sys
print("here", flush=True)
lock = ctypes.create_string_buffer(64)  # a C lock that is never given back: Python calls no handler meanwhile
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""
AT_WORK = """
import ctypes, sys
from llamatrain.exits import guarded
from llamatrain.run import Run
from llamatrain.settings import RunConfig, WandbConfig

wandb = WandbConfig("disabled", "", None, None, [])
config = RunConfig("job", "runs", 0, "auto", 0, 0, 0, 1, True, False, "mkl", 0, False, wandb)

def work():
    with Run(config, "test", {}):
        lock = ctypes.create_string_buffer(64)  # a library's work, during which no handler is called
        print("here", flush=True)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(lock)

sys.exit(guarded(work, leaves=False))
"""
PATIENT = """
import time
from llamatrain import stopping
from llamatrain.config import program
from llamatrain.run import Run
from llamatrain.settings import RunConfig, WandbConfig

def work(_):
    wandb = WandbConfig("disabled", "", None, None, [])
    with Run(RunConfig("job", "runs", 0, "auto", 0, 0, 0, 1, True, False, "mkl", 0, False, wandb), "test", {}, data={}) as run:
        print("here", flush=True)
        while not run.stop_requested():
            run.print("at work")
            time.sleep(0.02)
        run.stop(3)

class NoKeys:
    pass

program._dispatch = lambda *_: work(None) or 0
program.main("test", NoKeys, work)
"""


def started(folder: Path, repository: Path, main: str, first: str = FIRST_LINE) -> list[str]:
    """Write a package with a program into a folder; return the command that starts it."""
    (folder / "program").mkdir()
    (folder / "program" / "__init__.py").write_text(first)
    (folder / "program" / "__main__.py").write_text(main)
    return [
        "env",
        *("-uRANK", "-uLOCAL_RANK", "-uWORLD_SIZE"),
        f"PYTHONPATH={repository}",
        sys.executable,
        "-m",
        "program",
    ]


def heed(*numbers: signal.Signals) -> None:
    """Undo what a background shell ignores."""
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", SIGNALS)
def test_before_a_run_begins(number: signal.Signals, tmp_path: Path, repository: Path) -> None:
    with subprocess.Popen(
        started(tmp_path, repository, STUCK),
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: heed(*SIGNALS),
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (75, f"stopped: {number.name}; the same command starts it again\n")


def test_inside_a_library_where_there_is_nothing_to_save(tmp_path: Path, repository: Path) -> None:
    with subprocess.Popen(
        started(tmp_path, repository, AT_WORK), cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (75, "stopped: SIGTERM; the same command starts it again\n")
    status = json.loads((tmp_path / "runs" / "job" / "status.json").read_text())
    assert status["state"] == "stopped" and status["reason"].startswith("SIGTERM")


def test_what_is_ignored_stays_ignored(tmp_path: Path, repository: Path) -> None:
    with subprocess.Popen(
        ["nohup", *started(tmp_path, repository, PATIENT)],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "SIGTERM: stopping as soon as what is done is saved" in said and "SIGHUP" not in said


def loses_its_terminal(tmp_path: Path, repository: Path, heeds: signal.Handlers) -> int:
    """Start a patient program in a terminal of its own and close that; return the process. It treats SIGHUP as told."""
    command = started(tmp_path, repository, PATIENT)
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        heed(*SIGNALS)
        signal.signal(signal.SIGHUP, heeds)
        os.execvp(command[0], command)
    while b"here" not in os.read(terminal, 1000):
        pass
    os.close(terminal)  # every write of the program fails from now on
    return child


def test_a_closed_terminal_does_not_keep_a_run_from_saving(tmp_path: Path, repository: Path) -> None:
    child = loses_its_terminal(tmp_path, repository, signal.SIG_DFL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    assert '"SIGHUP at step 3' in (tmp_path / "runs" / "job" / "status.json").read_text()


def test_a_terminal_that_is_closed_unheard_ends_no_run(tmp_path: Path, repository: Path) -> None:
    child = loses_its_terminal(tmp_path, repository, signal.SIG_IGN)
    time.sleep(0.2)  # ten lines lead nowhere
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    assert '"SIGTERM at step 3' in (tmp_path / "runs" / "job" / "status.json").read_text()


def test_a_process_that_only_imports_a_program_is_left_alone(tmp_path: Path, repository: Path) -> None:
    started(tmp_path, repository, "")
    code = "import program, signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    environ = {**os.environ, "PYTHONPATH": f"{repository}:{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code, "-m", "program"], env=environ, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
