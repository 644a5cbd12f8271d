"""Holds the simulation against the closed form where there is one, and against what follows without."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from launch.simulation import histogram, simulate, told
from llamatrain.interruptions import DAY, Job, expected

# 2,000 GPUs, 2T tokens of 4M a step: the paper's 70B at 323 tokens per second and GPU.
LARGE = Job(
    steps=500_000,
    step_seconds=4 * 2**20 / (323 * 2000),
    nodes=250,
    failures_per_node_day=6.5e-3,
    save_every=250,
    save_seconds=20,
    start_seconds=600,
    queue_seconds=300,
)
JOBS = {
    "large": replace(LARGE, steps=50_000),
    "fragile": Job(1030, 1.0, 10, 86.4, save_every=50, save_seconds=5, start_seconds=8, queue_seconds=4),
    "never saves": Job(200, 1.0, 1, 864.0),
    "saves each step": Job(40, 10.0, 2, 864.0, save_every=1, save_seconds=3, start_seconds=30),
    "without failures": Job(105, 2.0, 4, 0.0, save_every=10, save_seconds=1, start_seconds=3),
}


@pytest.mark.parametrize("name", JOBS)
def test_it_agrees_with_the_closed_form(name: str) -> None:
    job, trials = JOBS[name], 20_000
    found, exact = simulate(job, trials, seed=1), expected(job)
    for values, mean in (
        (found.seconds, exact.seconds),
        (found.held_seconds, exact.held_seconds),
        (found.interruptions, exact.interruptions),
        (found.lost_gpu_hours, exact.lost_gpu_hours(job)),
    ):
        error = values.std() / trials**0.5
        assert abs(values.mean() - mean) <= 4 * error + 1e-9 * mean, (values.mean(), mean, error)


def test_a_failure_costs_half_an_interval_on_average() -> None:
    found = simulate(replace(LARGE, steps=100_000, start_seconds=0.0), 2000)
    assert found.repeated_steps.sum() / found.interruptions.sum() == pytest.approx(LARGE.save_every / 2, rel=0.03)


def test_it_loses_what_crashes_on_a_slurm_of_virtual_nodes_lost(repository: Path) -> None:
    """Each run of 400 or 520 steps in benchmarks/slurm_faults.py crashed once at a random moment; it saves every 100 steps."""
    lines = (repository / "benchmarks/results/slurm_faults.jsonl").read_text().splitlines()
    crashes = {"a node switched off", "SIGKILL of a rank", "a rank asleep", "a full disk", "a crash loop"}
    repeated = [
        row["repeated"]
        for row in map(json.loads, lines)
        if row["fault"] in crashes and row["program"] in ("pretrain", "sft") and row["phase"] in ("train", "save")
    ]
    error = statistics.stdev(repeated) / len(repeated) ** 0.5
    found = simulate(Job(400, 1.0, 1, DAY / 400, save_every=100), 20_000)
    lost = found.repeated_steps.sum() / found.interruptions.sum()
    assert len(repeated) >= 16 and lost == pytest.approx(47.4, abs=0.5)
    assert abs(statistics.mean(repeated) - lost) <= 2 * error


def test_checkpoints_that_are_published_later_cost_more_and_the_last_one_is_waited_for() -> None:
    quiet = replace(LARGE, failures_per_node_day=0.0, steps=1000, queue_seconds=0.0)
    later = replace(quiet, publish_seconds=100.0)
    assert simulate(later, 3).seconds - simulate(quiet, 3).seconds == pytest.approx(np.full(3, 100.0))
    job = replace(LARGE, steps=100_000, start_seconds=0.0, publish_seconds=250 * LARGE.step_seconds + 20)
    found = simulate(job, 2000)  # published as the next one is taken: an interval more is lost
    assert found.repeated_steps.sum() / found.interruptions.sum() == pytest.approx(1.5 * job.save_every, rel=0.03)


def test_a_seed_repeats_exactly_and_another_does_not() -> None:
    job = JOBS["fragile"]
    assert np.array_equal(simulate(job, 50, seed=3).seconds, simulate(job, 50, seed=3).seconds)
    assert not np.array_equal(simulate(job, 50, seed=3).seconds, simulate(job, 50, seed=4).seconds)


def test_a_job_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.simulation.MOST_ATTEMPTS", 50)
    with pytest.raises(
        ValueError, match="2 of 2 trials do not end: too many failures for a checkpoint every 500000 steps"
    ):
        simulate(replace(LARGE, save_every=0), 2)


def test_the_histogram_has_all_trials() -> None:
    lines = list(histogram(np.array([1.0, 1.0, 2.0, 5.0]), bins=4, width=8))
    assert lines == ["1.0 ████████ 50.0%", "2.0 ████     25.0%", "3.0          0.0%", "4.0 ████     25.0%"]


def test_what_is_told_names_its_quantiles() -> None:
    lines = list(told(simulate(replace(LARGE, steps=20_000), 200)))
    assert lines[0].startswith("200 trials at the slowest on 250 nodes, 1.5 days")
    assert any(line.startswith("days ") and "5 to 95 %" in line for line in lines)
    assert sum("█" in line for line in lines) >= 12
