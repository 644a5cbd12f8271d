"""The tables of a plan: every byte of a footprint is in a column, and totals are sums."""

from __future__ import annotations

import pytest

from launch.estimate.__main__ import planned
from launch.estimate.chain import grouped
from launch.estimate.config import PlanConfig
from launch.estimate.tables import batches, device_hours, energy, reasons, total, watts
from llamatrain.config.compose import compose
from llamatrain.errors import UserError


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


def test_what_offloaded_states_cost_is_said() -> None:
    cfg = compose("plan", PlanConfig, ["program=pretrain", "gpus=64"])
    for offloads in (False, True):
        found, given, _ = planned(cfg, ["preset=llama2_7b", f"zero.offload_optimizer={offloads}"])
        said = any(
            line.startswith("step with states in host memory: GPUs wait while 25 GB/s ")
            for line in reasons(found, given, cfg.rates)
        )
        assert said == offloads


def test_gpus_above_the_rows_of_a_batch_are_said_to_buy_nothing() -> None:
    told = {}
    for gpus in (1024, 2048):
        found, _, _ = planned(compose("plan", PlanConfig, [f"gpus={gpus}", "program=pretrain"]), ["preset=llama2_70b"])
        told[gpus] = list(batches(found))
    assert len(told[1024]) == 1
    assert told[2048][1] == "pretrain: GPUs above the 1,024 rows of a global batch buy nothing"
