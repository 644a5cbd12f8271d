"""`llamatrain status`: every stage of a pipeline in a line, from its files alone, and with what Slurm's queue adds."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import status
from launch.graph import Awaited
from launch.plan import Place, Planned
from launch.slurm import queue
from launch.slurm.attempts import note, of_job
from launch.slurm.queue import Queued
from launch.stage import write_plan
from launch.standing import Standing, standings
from launch.status import fitting, summary, table
from llamatrain.lock import Lock

from .test_listing import NOW, make

Capture = pytest.CaptureFixture[str]
NAMES = ("pretrain", "sft", "reward", "ppo")
PARENTS = {"pretrain": [], "sft": ["pretrain"], "reward": ["sft"], "ppo": ["reward", "sft"]}


def pipeline(folder: Path, **states: str) -> Path:
    """Make a pipeline of four stages, of which some have begun."""
    for name, state in states.items():
        reason = "" if state == "done" else f"of {name}"
        make(folder / name, state, name, total=30, seconds=3600, ranks=1, reason=reason)
    stages = {name: {"program": name, "parents": PARENTS[name]} for name in NAMES}
    (folder / "pipeline.json").write_text(json.dumps({"command": ["llamatrain", "pipeline"], "stages": stages}))
    return folder


def submitted(folder: Path, **jobs: str) -> None:
    """Note jobs as `llamatrain slurm` does."""
    (folder / "jobs").mkdir(exist_ok=True)
    content = {name: {"job": number, "after": [], "time": NOW} for name, number in jobs.items()}
    (folder / "jobs/jobs.json").write_text(json.dumps(content))


def by_name(folder: Path, *active: Queued, slurm: bool = False) -> dict[str, Standing]:
    """Return each stage's standing; away from Slurm where no job is active, unless `slurm` says so."""
    return {one.name: one for one in standings(folder, active if active or slurm else None, NOW)}


def test_a_running_stage_tells_its_speed_and_what_is_left(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, pretrain="done", sft="running")
    rows = [
        {"step": n, "time": 100 + 2 * n, "train/loss": 3 - n / 10, "train/tokens_per_second": 512} for n in range(1, 11)
    ]
    (folder / "sft/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Lock(folder / "sft"):
        one = by_name(folder)["sft"]
    assert (one.state, one.step, one.loss, one.tokens_per_second) == ("running", "10/30", 2.0, 512)
    assert one.left == pytest.approx(40)  # 20 steps of 2 s
    assert by_name(folder)["sft"].left is None  # nobody is at work in it


def test_the_queue_says_what_waits_and_a_failure_what_does_not_come(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, pretrain="done", sft="failed")
    submitted(folder, sft="11", reward="12")
    found = by_name(folder)
    assert {name: one.state for name, one in found.items()} == {
        "pretrain": "done", "sft": "failed", "reward": "cancelled", "ppo": "not started",
    }  # fmt: skip
    assert (found["sft"].note, found["reward"].note, found["reward"].job) == ("of sft", "sft failed", "12")
    waiting = [Queued("11", "PENDING", "BeginTime", ""), Queued("13", "RUNNING", "None", str(folder / "reward"))]
    found = by_name(folder, *waiting)
    assert [(found[name].state, found[name].job) for name in ("sft", "reward")] == [
        ("queued", "11"),
        ("starting", "13"),
    ]


def test_a_chains_report_stands_last(tmp_path: Path) -> None:
    folder, page = pipeline(tmp_path, pretrain="done", sft="failed"), tmp_path / "report.html"
    assert "report" not in by_name(folder)  # of a pipeline without jobs
    submitted(folder, sft="11", reward="12", report="13")
    found = by_name(folder)
    assert (list(found)[-1], found["report"].state, found["report"].note) == ("report", "cancelled", "sft failed")
    job = Queued("13", "PENDING", "Dependency", str(page))
    assert by_name(folder, job)["report"].state == "queued"
    assert by_name(folder, replace(job, state="RUNNING"))["report"].state == "running"
    page.write_text("")
    os.utime(page, (NOW - 1, NOW - 1))  # of an earlier chain
    assert by_name(folder, slurm=True)["report"].state == "cancelled"
    os.utime(page, (NOW + 1, NOW + 1))
    assert by_name(folder, slurm=True)["report"].state == "done"


def test_a_job_that_was_cancelled_by_hand_is_missed_where_slurm_is(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, pretrain="done")
    submitted(folder, sft="14", reward="15")
    assert by_name(folder)["sft"].state == "not started"
    found = by_name(folder, slurm=True)
    assert (found["sft"].state, found["sft"].note) == ("cancelled", "job 14 left the queue before it began")
    assert (found["reward"].state, found["reward"].note) == ("cancelled", "sft cancelled")


def test_a_job_whose_ranks_died_before_a_run_began_failed(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, pretrain="done")
    submitted(folder, sft="14", reward="15")
    jobs = folder / "jobs/sft"
    jobs.mkdir()
    for restart in range(2):
        note(jobs, folder / "sft", float(restart))
    found = by_name(folder, slurm=True)
    assert (found["sft"].state, found["sft"].note) == (
        "failed",
        f"2 starts ended before the run began: see {jobs / 'job.log'}",
    )
    assert (found["reward"].state, found["reward"].note) == ("cancelled", "sft failed")


def test_a_job_that_ended_before_its_program_began_failed(tmp_path: Path) -> None:
    """Of a single program: a module that is missing, say."""
    submitted(tmp_path, sft="14")
    assert [one.state for one in standings(tmp_path, [], NOW)] == ["cancelled"]
    (tmp_path / "jobs/job.log").write_text("module: command not found")
    (one,) = standings(tmp_path, [], NOW)
    assert (one.name, one.state) == ("sft", "failed") and one.note.startswith("job 14 ended before the run began: see ")


def test_what_waits_for_people_holds_what_stands_behind_it(tmp_path: Path) -> None:
    found = by_name(pipeline(tmp_path, pretrain="done", sft="done", reward="waiting"))
    assert (found["reward"].note, found["ppo"].state, found["ppo"].note) == (
        "of reward",
        "not started",
        "behind reward",
    )


def test_of_a_chain_of_jobs_what_waits_is_told_by_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pipeline(tmp_path / "demo", sft="done")
    monkeypatch.chdir(tmp_path)
    stages = [
        Planned(name, "sft", {}, {}, "", {"v1.jsonl": Awaited("ratings", {"comparisons": "@compare/c.jsonl"})})
        for name in ("reward", "other")
    ]
    write_plan(Place("demo", folder, (), None, None), stages, 1)
    monkeypatch.chdir("/")
    found = by_name(folder, slurm=True)
    assert (found["reward"].state, found["reward"].note) == ("waiting", "waits for v1.jsonl")
    assert (found["ppo"].state, found["ppo"].note) == ("not started", "behind reward")
    (tmp_path / "v1.jsonl").touch()
    assert by_name(folder, slurm=True)["reward"].state == "not started"


def test_restarts_and_their_reasons(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, pretrain="done")
    (folder / "jobs/pretrain").mkdir(parents=True)
    ends: tuple[int | None, ...] = (None, 75, 137)
    lines = [
        {"job": "3", "restart": n, "nodes": "n", "started": 0.0, "found": [], "before": end}
        for n, end in enumerate(ends)
    ]
    (folder / "jobs/pretrain/attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    incident = {"incident": 1, "step": 20, "back_to": 10}
    (folder / "pretrain/incidents.jsonl").write_text(json.dumps(incident) + "\n")
    one = by_name(folder)["pretrain"]
    assert one.restarts == 2
    make(folder / "sft", "done", "sft", restarts=3)  # started again by hand
    assert by_name(folder)["sft"].restarts == 3
    assert one.note == "loss spike at step 20, back to 10; last restart: a rank was killed"


def test_a_second_jobs_start_is_no_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pipeline(tmp_path, pretrain="done")
    jobs = folder / "jobs/pretrain"
    jobs.mkdir(parents=True)
    told = []
    for job, ended in (("3", ""), ("3", "3 137"), ("4", "3 0"), ("4", "4 75")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        (jobs / "exit_code").write_text(ended)
        note(jobs, folder / "pretrain", 0.0)
        one = by_name(folder)["pretrain"]
        told.append((one.restarts, one.note))
    assert told == [
        (0, ""), (1, "last restart: a rank was killed"), (0, ""), (1, "last restart: it was saved and stopped"),
    ]  # fmt: skip


def test_a_second_job_that_came_and_went_hides_no_restart_of_the_one_that_runs() -> None:
    attempts: list[Any] = [{"job": job, "before": 137} for job in ("3", "3", "3", "4")]
    assert [len(of_job(attempts, job)) for job in ("3", "4", "5", "")] == [3, 1, 1, 1]
    assert of_job([], "") == []


def test_cost_is_in_gpu_hours_or_core_hours(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, pretrain="done", sft="done", reward="stopped")
    common: dict[str, Any] = {"program": "x", "config": {}, "inputs": {}, "key": ""}
    (folder / "pretrain/stage.json").write_text(
        json.dumps({**common, "seconds": 7200, "ranks": 16, "gpus": 16, "cores": 64})
    )
    (folder / "sft/stage.json").write_text(json.dumps({**common, "seconds": 1800, "ranks": 2, "gpus": 0, "cores": 4}))
    found = by_name(folder)
    assert found["pretrain"].gpu_hours == 32
    assert found["sft"].core_hours == 4  # its status knows of an hour, a killed one's record of less
    assert summary(list(found.values())).startswith("2 done, 1 stopped, 1 not started; 32.00 GPU h + ")


def test_the_table_has_the_columns_that_say_something(tmp_path: Path) -> None:
    lines = list(table(list(by_name(pipeline(tmp_path, pretrain="done", sft="failed")).values()), colour=False))
    assert re.fullmatch(r"stage +state +step +loss +cost", lines[0])
    assert lines[3] == "    of sft" and lines[-1].split() == ["ppo", "not", "started"]
    coloured = "\n".join(table(list(by_name(tmp_path).values()), colour=True))
    assert re.sub(r"\033\[\d*m", "", coloured) == "\n".join(lines)


def test_a_table_fits_a_screen(tmp_path: Path) -> None:
    """Notes are wrapped, lines cut, and what is done or has not begun gives way to what is at work or failed."""
    found = list(by_name(pipeline(tmp_path, pretrain="done", sft="failed")).values())
    found[1] = replace(found[1], note="a reason of some length that does not fit")
    assert fitting(found, True, 140, 40) == list(table(found, True))
    small = fitting(found, False, 24, 6)
    assert [line.split()[0] for line in small] == ["stage", "sft", "a", "length", "fit", "and"]
    assert max(map(len, small)) <= 24 and small[-1] == "and 3 stages more"


def asked(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        status.main(arguments)
    return int(end.value.code or 0)


def test_the_newest_is_chosen_and_watching_ends_with_the_work(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # away from Slurm
    pipeline(tmp_path / "old", pretrain="done")
    make(tmp_path / "new", "done", "sft")
    for path in (tmp_path / "old").rglob("*"):
        os.utime(path, (1000, 1000))
    os.utime(tmp_path / "old", (1000, 1000))
    assert asked(str(tmp_path), "--watch") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{tmp_path / 'new'}  ") and said[2].startswith("sft") and said[3].startswith("1 done")
    assert asked(str(tmp_path / "old")) == 0
    assert "3 not started" in capsys.readouterr().out


def test_a_stage_whose_program_is_on_its_way_is_starting(tmp_path: Path) -> None:
    folder = pipeline(tmp_path, pretrain="done")
    (folder / "sft").mkdir()
    (folder / "sft/stage.json").write_text("{}")
    assert by_name(folder)["sft"].state == "not started"
    with Lock(folder):
        assert by_name(folder)["sft"].state == "starting"


def test_a_queue_that_does_not_answer_does_not_end_watching(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipeline(tmp_path, pretrain="done")
    submitted(folder, sft="14")
    answers = iter([False, True])

    def jobs() -> list[Queued]:
        if not next(answers):
            raise queue.ClusterError("squeue failed: timed out")
        return []

    monkeypatch.setattr(queue, "jobs", jobs)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(status, "EVERY", 0)
    assert asked(str(folder), "--watch") == 0
    said = capsys.readouterr().out
    assert said.count("warning: squeue failed: timed out; what is queued is not shown") == 1
    assert "job 14 left the queue" in said.partition("warning: ")[2]


def test_watching_writes_over_itself_and_ctrl_c_leaves_it(tmp_path: Path, repository: Path) -> None:
    """In a terminal of 40 columns, beside a pipeline at work."""
    pipeline(tmp_path, pretrain="done")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    heard = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background shell has it ignored
    code = f"{heard}; runpy.run_module('launch', run_name='__main__', alter_sys=True)"
    command = [sys.executable, "-c", code, "status", str(tmp_path), "--watch"]
    environ = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    with Lock(tmp_path):
        watching = subprocess.Popen(
            command, cwd=repository, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        seen = b""
        while b"3 not started" not in seen:
            seen += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        with suppress(OSError):
            while more := os.read(ours, 4096):
                seen += more
    assert watching.wait() == 130 and b"stopped" not in seen
    first, *lines = seen.replace(b"\r", b"").split(b"\033[H")[1].split(b"\n")
    assert first.endswith(b"\033[K") and lines[-2:] == [b"\033[J", b""]
    assert all(len(re.sub(rb"\033\[\d*[mKJ]", b"", line)) <= 40 for line in lines)


@pytest.mark.parametrize(
    ("folder", "message"), [("nowhere", "there is no such folder"), (".", "no pipeline and no run")]
)
def test_what_is_not_there_is_said(tmp_path: Path, capsys: Capture, folder: str, message: str) -> None:
    assert asked(str(tmp_path / folder)) == 2
    assert message in capsys.readouterr().err
