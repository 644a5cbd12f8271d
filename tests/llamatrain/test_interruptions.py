"""Holds interruptions, effective time and save intervals against values by hand, and against each other."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from llamatrain.interruptions import (
    DAY,
    PUBLISHED,
    Job,
    daly,
    effective_ratio,
    expected,
    mean_seconds_between,
    young,
)

# One node that fails every 1,000 s on average; two stretches of 510 s.
JOB = Job(steps=10, step_seconds=100, nodes=1, failures_per_node_day=86.4, save_every=5, save_seconds=10)


def test_published_rates_give_published_times() -> None:
    assert mean_seconds_between(2048, PUBLISHED["llama3_405b"]) == pytest.approx(54 * DAY / 419)
    assert mean_seconds_between(124, PUBLISHED["opt_175b"]) == pytest.approx(7.5 * 3600)
    # arXiv 2410.21680 projects 1.8 h for 16,384 GPUs and 0.23 h for 131,072 of its first cluster.
    assert mean_seconds_between(16384 // 8, PUBLISHED["rsc_1"]) / 3600 == pytest.approx(1.8, abs=0.05)
    assert mean_seconds_between(131072 // 8, PUBLISHED["rsc_1"]) / 3600 == pytest.approx(0.23, abs=0.01)


def test_times_by_hand() -> None:
    found = expected(JOB)
    assert found.seconds == found.held_seconds == pytest.approx(2 * 1000 * (math.exp(0.51) - 1))  # 1330.58
    assert found.seconds == pytest.approx(1330.58, abs=0.01)
    assert found.interruptions == pytest.approx(1.33058, abs=1e-5)
    assert found.effective == pytest.approx(1000 / 1330.58, abs=1e-5)
    assert found.lost_gpu_hours(JOB) == pytest.approx(330.58 * 8 / 3600, abs=1e-4)


def test_start_and_queue_by_hand() -> None:
    job = replace(JOB, start_seconds=100, queue_seconds=50)
    found = expected(job)
    # Daly's total time, each stretch M exp(R / M) (exp((t + w) / M) - 1), and the first start-up, itself until it succeeds.
    held = 1000 * (math.exp(0.1) - 1) + 2 * 1000 * math.exp(0.1) * (math.exp(0.51) - 1)
    assert found.held_seconds == pytest.approx(held)
    assert found.interruptions == pytest.approx(job.failure_rate * held)  # Wald: rate x exposure
    assert found.seconds == pytest.approx(held + 50 * (1 + found.interruptions))


def test_without_failures_only_saving_queueing_and_starting_cost() -> None:
    job = replace(JOB, failures_per_node_day=0, start_seconds=7, queue_seconds=3, steps=11)
    assert expected(job).seconds == pytest.approx(11 * 100 + 3 * 10 + 7 + 3)
    assert expected(job).interruptions == 0
    nearly = expected(replace(job, failures_per_node_day=1e-9))
    assert nearly.seconds == pytest.approx(expected(job).seconds)


def test_a_hopeless_job_takes_for_ever() -> None:
    found = expected(replace(JOB, failures_per_node_day=1e9))
    assert math.isinf(found.seconds) and found.effective == 0


def test_the_first_order_ratio_by_hand() -> None:
    # 128 nodes, 6.5 failures per 1,000 node-days, an hour between checkpoints of 60 s, 10 minutes to get going again.
    job = Job(36000, 10, 128, 6.5e-3, save_every=360, save_seconds=60, start_seconds=600)
    assert effective_ratio(job) == pytest.approx((1 - 128 * 6.5e-3 / 86400 * (600 + 1800)) / (1 + 1 / 60))
    assert effective_ratio(job) == pytest.approx(0.96090, abs=1e-4)


@pytest.mark.parametrize("nodes", [16, 128, 512])
def test_where_losses_are_small_it_agrees_with_the_exact_one(nodes: int) -> None:
    job = Job(360000, 10, nodes, 6.5e-3, save_every=90, save_seconds=20, start_seconds=300, queue_seconds=120)
    lost = 1 - expected(job).effective
    assert effective_ratio(job) == pytest.approx(expected(job).effective, abs=max(1e-3, 2 * lost**2))


def test_intervals_by_hand() -> None:
    assert young(300, 86400) == pytest.approx(7200)
    assert daly(300, 86400) == pytest.approx(7200 * (1 + math.sqrt(1 / 576) / 3 + 1 / 576 / 9) - 300)
    assert daly(200, 100) == 100
    assert math.isinf(daly(10, math.inf))


@pytest.mark.parametrize(("save", "mean"), [(5, 86400), (60, 14400), (300, 6 * 3600)])
def test_dalys_interval_is_where_the_exact_time_is_least(save: float, mean: float) -> None:
    def seconds(interval: int) -> float:
        return expected(Job(4_000_000, 1, 1, DAY / mean, interval, save)).seconds

    best = min(range(20, 20000, 5), key=seconds)
    assert daly(save, mean) == pytest.approx(best, rel=0.01, abs=10)
    assert young(save, mean) == pytest.approx(best, rel=0.15)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"nodes": 0}, {"step_seconds": 0}, {"queue_seconds": -1}])
def test_what_no_job_can_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="need"):
        replace(JOB, **wrong)  # type: ignore[arg-type]
