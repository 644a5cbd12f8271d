"""What may befall a job at night, at moments that are chosen: each run ends like one that nothing befell.

A reference of each program on two ranks, then jobs that are struck again and again; `benchmarks/slurm_faults.py` chooses
faults and moments at random.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from . import faults
from .cluster import Lab, started
from .faults import Job, read

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(1500)]

Strike = Callable[[Job, dict[int, int]], None]
GENERATE, SCORE = "llamatrain.model.decoding:Decoding.logits", "llamatrain.responses.scoring:scores_at_end"
JUDGE, LEARN = "rlhf.experience:pack_rollouts", "rlhf.learning:accumulate"
HELD_OUT = "rlhf.held_out:HeldOut.measure"
STEP, WRITE = "llamatrain.fit:train_step", "llamatrain.saving:Files.write"
EVALUATE, MEET = "llamatrain.fit:evaluate_loss", "llamatrain.distributed:_meet"


@pytest.fixture(scope="module")
def wide(slurm: None) -> Iterator[Lab]:
    """Four nodes, and a disk that can be filled."""
    with started(nodes=4, disk=200) as lab:
        yield lab


@pytest.fixture(scope="module")
def programs(wide: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What is submitted of each program."""
    return faults.programs(faults.make_world(wide, tmp_path_factory.mktemp("world")))


@pytest.fixture(scope="module")
def whole(wide: Lab, programs: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that nothing befalls."""
    folder = tmp_path_factory.mktemp("whole")
    for name, arguments in programs.items():
        Job(wide, folder / name, arguments).submit()
    wide.until_empty()
    assert {read(folder / name / "status.json")["restarts"] for name in programs} == {0}
    return folder


def strike_at(job: Job, *blows: tuple[str, int, Strike], more: tuple[str, ...] = ()) -> None:
    """Submit a job and strike it once each time it has started: in a function's nth call."""
    for number, (function, nth, strike) in enumerate(blows):
        faults.stop_at(job.lab, function, nth)
        if number == 0:
            job.submit(*more)
        # One that sleeps before it gets that far has not made its first note: that shows after ten minutes alone.
        strike(job, faults.until_stopped(job, both=function == MEET))
    job.lab.until(job.over)


def ends(job: Job) -> list[int | None]:
    """Return how the attempts ended, but for the last one."""
    return [attempt["before"] for attempt in job.attempts[1:]]


def test_the_time_limit_comes_near_in_every_phase_of_ppo(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    job = Job(wide, tmp_path / "ppo", programs["ppo"])
    moments = ((HELD_OUT, 1), (GENERATE, 60), (JUDGE, 2), (LEARN, 6), (WRITE, 1), (HELD_OUT, 1))
    strike_at(job, *((function, nth, faults.warn) for function, nth in moments))
    assert ends(job) == [75] * len(moments) and len({attempt["job"] for attempt in job.attempts}) == 1
    assert job.status["restarts"] == len(moments) and job.status["repeated"] == 0
    assert faults.differences(job.run, whole / "ppo") == []


def test_the_time_limit_comes_near_while_responses_are_sampled_and_scored(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    job = Job(wide, tmp_path / "sample", programs["sample"])
    strike_at(job, (GENERATE, 60, faults.warn), (SCORE, 2, faults.warn))
    assert ends(job) == [75] * 2
    assert faults.differences(job.run, whole / "sample") == []


def test_signals_kills_sleep_and_power_cuts_in_training(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    job = Job(wide, tmp_path / "pretrain", programs["pretrain"])

    def cut(job: Job, pids: dict[int, int], place: int) -> None:
        faults.cut_power(job, pids, job.nodes()[place])

    strike_at(
        job,
        (STEP, 30, faults.ask_to_stop),
        (STEP, 30, partial(faults.ask_to_stop, whom="--batch")),
        (STEP, 30, partial(faults.ask_to_stop, whom="--full")),
        (WRITE, 2, partial(faults.kill, rank=0)),  # at step 100
        (STEP, 50, partial(faults.put_to_sleep, rank=0)),  # after it
        (STEP, 50, partial(cut, place=1)),
        (STEP, 110, partial(cut, place=0)),  # of the batch script
        (EVALUATE, 1, partial(faults.kill, rank=1)),  # at the end
        more=("cluster.restarts=9",),
    )
    # Of a lost node Slurm hears itself, or a rank that saw its connection close: then it is a crash.
    assert ends(job)[:3] == [75] * 3 and all(code is None or code > 128 for code in ends(job)[3:])
    said = (job.run / "jobs/rank_0001.log").read_text()
    assert re.search(r"error: hang: rank 0 \(pid \d+ on host node\d\), last seen at step \d+, train", said)
    assert faults.differences(job.run, whole / "pretrain") == []


def test_a_kill_a_sleep_and_a_power_cut_in_ppo(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    job = Job(wide, tmp_path / "ppo", programs["ppo"])
    strike_at(
        job,
        (MEET, 1, partial(faults.put_to_sleep, rank=1)),  # before the run begins
        (JUDGE, 5, partial(faults.kill, rank=1)),
        (LEARN, 2, partial(faults.put_to_sleep, rank=1)),
        (LEARN, 6, faults.preempt),
        # Last: on a node that is back Slurm may end the job's next start, for which its late order was not meant.
        (GENERATE, 40, lambda job, pids: faults.cut_power(job, pids, job.nodes()[1])),
    )
    said = (job.run / "jobs/rank_0000.log").read_text()
    hangs = re.findall("error: hang: rank 1 [^;]*", said)
    assert len(hangs) == 2 and " step 0, start, in start " in hangs[0], hangs  # by notes of some seconds before
    assert ends(job)[3] == 75 and job.status["restarts"] >= 4
    assert faults.differences(job.run, whole / "ppo") == []


def test_on_fewer_nodes_it_goes_on_by_the_same_command(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    job = Job(wide, tmp_path / "pretrain", programs["pretrain"])
    strike_at(job, (STEP, 395, faults.cancel))
    assert job.status["state"] == "stopped" and len(job.attempts) == 1  # cancelled is not queued again
    job.submit("resources.pretrain.nodes=1")
    wide.until(job.over)
    assert job.status["ranks"] == 1
    assert faults.loss_difference(job.run, whole / "pretrain") <= 1e-6


def test_a_crash_loop_gives_up_and_the_same_command_goes_on(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    job = Job(wide, tmp_path / "sft", programs["sft"])
    job.submit("cluster.restarts=1")
    faults.crash_until_it_gives_up(job, job.until_ranks())
    assert len(job.attempts) == 3 and not job.status  # killed as soon as they are there: no run began
    assert "3 starts ended before the run began: " in wide.llamatrain("status", str(job.run))
    assert "error: gave up after 1 restart" in (job.run / "jobs/job.log").read_text()
    job.submit()
    wide.until(job.over)
    assert faults.differences(job.run, whole / "sft") == []


def test_a_disk_that_is_full_ends_the_job_and_with_room_it_goes_on(
    wide: Lab, programs: dict[str, list[str]], whole: Path
) -> None:
    job = Job(wide, wide.folder / "disk/pretrain", programs["pretrain"])
    strike_at(job, (WRITE, 4, faults.fill_until_it_ends))  # at step 200
    assert job.status["state"] == "failed" and "no space left on the disk" in wide.llamatrain("status", str(job.run))
    assert len(job.attempts) == 1
    job.submit()
    wide.until(job.over)
    assert job.status["restarts"] == 1 and 100 <= job.status["repeated"] < 200  # training went on until it was seen
    assert faults.differences(job.run, whole / "pretrain") == []


def test_bad_nodes_are_named_and_left_out(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    """One whose disk for temporary files is full, and then two with a slow link between them."""
    for name, what in (("disk", "free space on the disk for temporary files"), ("link", "link")):
        if name == "link" and wide.environ["LAB_NET"] == "0":
            pytest.skip("the nodes have no network of their own to throttle")
        job = Job(wide, tmp_path / name, programs["sft"])
        faults.spoil(wide, name == "disk", job)
        wide.until(job.over)
        assert ends(job) == [76]
        said = (job.run / "jobs/rank_0000.log").read_text()
        assert re.search(rf"bad node: node1 \(rank 0\): {what} .*, need ", said), said
        bad = (job.run / "jobs/bad_nodes.txt").read_text().split()
        assert bad == ["node1"] if name == "disk" else bad == ["node1", "node2"]
        nodes = wide.ask("scontrol", "show", "hostnames", job.attempts[1]["nodes"]).split()
        assert not set(bad) & set(nodes)
        assert faults.differences(job.run, whole / "sft") == []


def test_a_second_job_of_a_run_gives_way_to_the_first(
    wide: Lab, programs: dict[str, list[str]], whole: Path, tmp_path: Path
) -> None:
    """The first one stands still meanwhile: it is at work for as long as the second one takes, and writes nothing."""
    job = Job(wide, tmp_path / "pretrain", programs["pretrain"])
    faults.stop_at(wide, STEP, 150)
    job.submit()
    pids = faults.until_stopped(job)
    logs, before = sorted((job.run / "jobs").glob("rank_*.log")), contents(job.run)
    said = [path.read_text() for path in logs]
    assert "is queued already (running)" in job.submit()
    second = wide.ask("sbatch", "--parsable", str(job.run / "jobs/job.sh")).strip()
    wide.until(lambda: not wide.ask("squeue", "--noheader", f"--jobs={second}"))
    who = rf"another process \(pid \d+ of job {job.number} on host node\d, since [-\d :]+\) is running in {re.escape(str(job.run))}"
    for path, text in zip(logs, said, strict=True):
        head, _, error = path.read_text().removeprefix(text).partition("\n")
        assert re.match(rf"=== rank \d of 2 on node\d, job {second}, restart 0, ", head), head
        assert re.fullmatch(rf"error: {who}: wait for it, or choose another run\.name\n", error), error
    assert "=== ended with 2, " in (job.run / "jobs/job.log").read_text()  # the first one is still at work
    assert contents(job.run) == before
    assert " running " in wide.llamatrain("status", str(job.run))
    faults.wake(pids)
    wide.until(job.over)
    assert [attempt["job"] for attempt in job.attempts] == [job.number, second] and job.status["restarts"] == 0
    assert faults.differences(job.run, whole / "pretrain") == []


def contents(run: Path) -> dict[Path, bytes]:
    """Return all of a run's files but those of its jobs, and what is in them."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.parent != run / "jobs"}
