"""A job that restarts without progress gives up, with the last lines of its ranks' logs; one that moves on does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.slurm import attempt
from launch.slurm.attempts import EXIT_GAVE_UP, last_error, last_words, made, note, read_attempts, stuck

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder, and beside it the folder of its job."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/status.json").write_text(json.dumps({"state": "running", "program": "sft", "step": 3}))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")
    return tmp_path / "run"


def begin(run: Path, restart: int, monkeypatch: pytest.MonkeyPatch, ended: int | None = 137) -> int:
    """Start a job as its script does, after the attempt before has ended with a code; return the exit code."""
    jobs = run.parent / "jobs"
    if restart:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        if ended is not None:
            (jobs / "exit_code").write_text(f"7 {ended}\n")
    try:
        attempt.begin(attempt.AttemptConfig(str(jobs), str(run), restarts=2))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_it_gives_up_after_restarts_without_progress(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for rank, words in enumerate(("waiting for rank 1", "CUDA error: out of memory")):
        log = f"=== rank {rank} of 2\nold news\n=== rank {rank} of 2\nstep 3\n{words}\n"
        (run.parent / f"jobs/rank_{rank:04}.log").write_text(log)
    assert [begin(run, restart, monkeypatch) for restart in range(4)] == [0, 0, 0, EXIT_GAVE_UP]
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", 3)
    words = "rank 0: step 3 | waiting for rank 1; rank 1: step 3 | CUDA error: out of memory"
    assert status["reason"] == f"no progress in 2 restarts; {words}"
    assert "rank 1: step 3 | CUDA error: out of memory" in capsys.readouterr().err


def test_progress_and_stops_on_request_do_not_count(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for restart in range(8):  # a new chunk each time
        (run / "chunks").mkdir(exist_ok=True)
        (run / f"chunks/{restart}.json").touch()
        assert begin(run, restart, monkeypatch) == 0
    for restart in range(8, 16):  # preempted before it got anywhere
        assert begin(run, restart, monkeypatch, ended=75) == 0
    attempts = read_attempts(run.parent / "jobs")
    assert [one["restart"] for one in attempts] == list(range(16))
    assert attempts[-1]["before"] == 75 and attempts[0]["before"] is None


def test_a_job_of_its_own_has_all_its_restarts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [begin(run, restart, monkeypatch, ended=None) for restart in range(3)] == [0, 0, 0]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert [begin(run, restart, monkeypatch) for restart in range(4)] == [0, 0, 0, EXIT_GAVE_UP]


def test_how_a_second_job_ended_says_nothing_of_the_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: it found the folder in use and failed, and then the first one's node died."""
    begin(run, 0, monkeypatch)
    (run.parent / "jobs/exit_code").write_text("8 1\n")
    begin(run, 1, monkeypatch, ended=None)
    assert [one["before"] for one in read_attempts(run.parent / "jobs")] == [None, None]


def test_bookkeeping_is_no_progress(run: Path) -> None:
    before = made(run)
    for name in (
        "metrics.jsonl",
        "status.json",
        ".beats/rank_00001.json",
        "hangs/rank_00001.txt",
        "checkpoints/step_00000004.tmp/model",
        "wandb/run/log",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    assert made(run) == before == []
    (run / "checkpoints/step_00000004").mkdir()
    (run / "checkpoints/step_00000004/MANIFEST.json").write_text("{}")
    assert made(run) == ["step_00000004"]


def test_ranks_that_say_the_same_are_named_together(run: Path) -> None:
    for rank in range(12):
        (run.parent / f"jobs/rank_{rank:04}.log").write_text("lost rank 11\n" if rank < 11 else "")
    assert last_words(run.parent / "jobs") == [
        "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 3 more: lost rank 11",
        "rank 11: nothing",
    ]


def test_the_error_is_found_before_what_a_stage_says_of_going_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = run.parent / "jobs"
    said = "✗ sft  failed after 27 s (exit code 2): see its message above\n  After fixing it, rerun:\n  llamatrain slurm x\n"
    (jobs / "rank_0000.log").write_text(f"=== rank 0 of 1, job 7, restart 0, today\nerror: steps=0: need 1\n{said}")
    assert last_words(jobs) == ["rank 0: error: steps=0: need 1"]
    assert last_error(jobs) == ""  # before a start is known
    begin(run, 0, monkeypatch)
    assert last_error(jobs) == "steps=0: need 1"
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    begin(run, 0, monkeypatch)  # one whose ranks never began
    assert last_error(jobs) == ""


def test_a_damaged_line_is_left_out(run: Path, capsys: Capture) -> None:
    jobs = run.parent / "jobs"
    (jobs / "attempts.jsonl").write_text('{"job": 3}\n')
    assert stuck(note(jobs, run, 0.0)) == 0
    assert len(read_attempts(jobs)) == 1
    assert "attempts.jsonl:1 is damaged" in capsys.readouterr().err
