"""One stage of a planned pipeline runs alone, decides anew, and from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch import stage
from llamatrain.lock import Lock

from .conftest import Start

Capture = pytest.CaptureFixture[str]


def alone(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        stage.main(arguments)
    return int(end.value.code or 0)


def runs_of(name: str) -> int:
    path = Path("runs/trio") / name / "started.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_stage_runs_alone_from_its_plan(start: Start, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start("until=first", "third.number=7") == 0
    here = Path.cwd()
    monkeypatch.chdir("/")
    assert alone(str(here / "runs/trio"), "second") == 0  # relative paths are relative to where it was planned
    assert alone(str(here / "runs/trio"), "third") == 0
    monkeypatch.chdir(here)
    assert json.loads(Path("runs/trio/third/started.txt").read_text())["number"] == 7
    capsys.readouterr()
    assert alone("runs/trio", "third") == 0
    assert "third  done" in capsys.readouterr().out
    assert [runs_of(name) for name in ("first", "second", "third")] == [1, 1, 1]
    assert alone("runs/trio", "third", "rerun=[third]") == 0
    assert len(list(Path("runs/trio").glob("third.replaced-*"))) == 1
    assert start("third.number=7") == 0  # the pipeline finds all of it done
    assert [runs_of(name) for name in ("first", "second", "third")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/trio", "thrd"], "stage=thrd: no such stage; did you mean 'third'?"),
        (["runs/duo", "third"], "`llamatrain pipeline` makes it"),
        (["runs/trio", "second"], "runs/trio/first/out.txt does not exist"),
    ],
)
def test_what_cannot_run_is_said(start: Start, capsys: Capture, arguments: list[str], message: str) -> None:
    assert start("until=first") == 0
    Path("runs/trio/first/out.txt").unlink()
    capsys.readouterr()
    assert alone(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_stage_that_is_at_work_or_costly_is_left_alone(start: Start, capsys: Capture) -> None:
    assert start() == 0
    with Lock(Path("runs/trio/second")):
        assert alone("runs/trio", "second", "rerun=[second]") == 2
    assert "is running in" in capsys.readouterr().err
    record = Path("runs/trio/second/stage.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": 7200.0}))
    (Path("runs/trio/first") / "out.txt").write_text("other")
    assert alone("runs/trio", "second") == 2
    assert "rerun=[second]" in capsys.readouterr().err
    assert not list(Path("runs/trio").glob("*.replaced-*"))


@pytest.mark.usefixtures("start")
def test_of_several_ranks_the_first_decides(start: Start, repository: Path) -> None:
    assert start("until=first") == 0
    code = (
        "from launch import programs, stage\n"
        "from tests.launch.conftest import FAKE_PROGRAM; programs.PROGRAMS['fake'] = FAKE_PROGRAM\n"
        "stage.main()"
    )
    # The second launch finds it done; before the third its settings change, which a process of rank 0 alone checks first.
    for times, total in ((1, 2), (2, 2), (3, 2)):
        if times == 3:
            assert start("until=first", "second.number=5") == 0
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", code, "runs/trio", "second"],
                env={**os.environ, "PYTHONPATH": str(repository), "RANK": str(rank), "WORLD_SIZE": "2"},
            )
            for rank in (1, 0)
        ]
        assert [process.wait(timeout=120) for process in ranks] == [0, 0], times
        assert runs_of("second") == total
    assert json.loads(Path("runs/trio/second/stage.json").read_text())["ranks"] == 2
    assert len(list(Path("runs/trio").glob("second.replaced-*"))) == 1


def test_in_a_job_the_command_that_submitted_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["llamatrain", "slurm", "pipeline", "preset=trio"]
    (tmp_path / "pipeline.json").write_text(json.dumps({"command": command}))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert stage._again(tmp_path, "third") == ["stage", str(tmp_path), "third"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert stage._again(tmp_path, "third") == command[1:]
