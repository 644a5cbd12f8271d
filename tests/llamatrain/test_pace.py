"""How long work takes: arithmetic that can be done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.slurm.config import SlurmConfig
from llamatrain.config.compose import compose
from llamatrain.hardware import MFU, Machine
from llamatrain.model.config import ModelConfig
from llamatrain.pace import RECOMPUTED, exchanged, pace
from llamatrain.planning import Work
from llamatrain.settings import ZeroConfig

MODEL = ModelConfig(32_000, 4096, 32, 32, 32, 11_008, 4096, 1e4, 1e-5, False, 0.02, "none")
HARDWARE = compose("slurm", SlurmConfig, ["program=sft"]).cluster.hardware


def machine(nodes: int, each: int = 8) -> Machine:
    return Machine(HARDWARE, nodes, each, gpus=True)


def work(stage: int) -> Work:
    zero = ZeroConfig(stage, "bfloat16", False, False)
    return Work(MODEL, "bfloat16", zero, 1024, 4096, 1, steps=100, step_tokens=1024 * 4096)


def test_a_step_is_6n_at_the_papers_utilisation() -> None:
    found = pace(work(1), machine(8))
    operations = 6 * MODEL.parameters * 1024 * 4096
    assert found.step == pytest.approx(tuple(operations / (share * 64 * 312e12) for share in reversed(MFU)))
    assert found.training == pytest.approx((100 * found.step[0], 100 * found.step[1])) == found.seconds
    again = replace(MODEL, activation_checkpointing="full")
    assert pace(replace(work(1), model=again), machine(8)).step[0] == pytest.approx(RECOMPUTED * found.step[0])


@pytest.mark.parametrize(("stage", "whole"), [(1, 3), (2, 16 + 1), (3, 3 * 16)])
def test_what_is_exchanged_grows_with_the_zero_stage(stage: int, whole: int) -> None:
    """In copies of the bfloat16 weights, of 16 micro-batches: collectives as benchmarks/collectives.py counts them."""
    assert exchanged(work(stage), machine(8)) == pytest.approx(whole * 2 * MODEL.parameters * 63 / 64)


def test_a_step_takes_as_long_as_its_network() -> None:
    slow = replace(HARDWARE, network=0.01)
    found = pace(work(3), replace(machine(8), hardware=slow))
    assert (
        found.step[0] == found.step[1] == found.network == pytest.approx(exchanged(work(3), machine(8)) / (8 * 0.01e9))
    )
    assert pace(work(3), machine(1, 1)).network == 0


def test_rows_that_do_not_divide_by_the_ranks_cost_padding() -> None:
    few = replace(work(1), rows=64, step_tokens=64 * 4096)
    assert pace(few, machine(16)).step == pytest.approx(pace(few, machine(8)).step)


def test_sampling_reads_the_weights_once_per_token() -> None:
    one = Work(MODEL, "bfloat16", whole=1, sampled=8, written_tokens=100, at_once=1)
    low, high = pace(one, machine(1)).sampling
    assert 100 * 2 * MODEL.parameters / 2039e9 < low < high
    together = replace(one, sampled=8 * 16, at_once=16)
    assert pace(together, machine(1)).sampling[1] < 3 * high, "sixteen at once, hardly longer than one"
