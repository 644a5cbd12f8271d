"""The tables of a plan: every byte of a footprint is in a column, and totals are sums."""

from __future__ import annotations

import pytest

from launch.estimate.__main__ import planned
from launch.estimate.chain import grouped, work_of
from launch.estimate.config import PlanConfig
from launch.estimate.tables import clock, device_hours, energy, parts, span, total, watts
from llamatrain.config.compose import compose
from llamatrain.errors import UserError


@pytest.mark.parametrize("more", [[], ["zero.offload_optimizer=true"]])
def test_the_columns_hold_all_of_a_footprint(more: list[str]) -> None:
    for program in ("pretrain", "ppo", "rejection_sampling", "sample"):
        work = work_of(program, ["preset=llama2_7b", *(more if program in ("pretrain", "ppo") else [])])
        for _, held, _ in work.phases(68e9, 64):
            assert sum(parts(held).values()) == pytest.approx(held.total)
            assert min(parts(held).values()) >= 0


def test_the_chains_total_is_the_sum_of_its_stages() -> None:
    cfg = compose("plan", PlanConfig, ["gpus=64"])
    found, _, _ = planned(cfg, ["preset=llama2_7b"])
    assert total(map(device_hours, grouped(found))) == pytest.approx(total(map(device_hours, found)))
    assert total(energy(one, cfg.rates) for one in found)[1] == pytest.approx(total(map(device_hours, found))[1] * 0.4)


def test_a_gpu_of_unknown_power_is_refused_with_the_key() -> None:
    cfg = compose("plan", PlanConfig, ["program=sft", "cluster.hardware.gpu=nothing"])
    found, _, _ = planned(cfg, ["preset=llama2_7b"])
    with pytest.raises(
        UserError, match=r"cluster\.hardware\.gpu=nothing: its power is not known, need rates\.gpu_watts"
    ):
        watts(found[0].machine, cfg.rates)


def test_ranges_are_short() -> None:
    assert (
        span((26.2, 31.7)) == "26–32" and span((223_000, 2_800_000)) == "223k–2.8M" and span((0.001, 0.002)) == "<0.01"
    )
    assert (
        clock((100, 200)) == "4.2–8.3 days"
        and clock((0.02, 0.03)) == "1.2–1.8 min"
        and clock((0.001, 0.002)) == "3.6–7.2 s"
    )
