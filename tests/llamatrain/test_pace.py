"""How long work takes: arithmetic that can be done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.slurm.config import SlurmConfig
from llamatrain import footprint
from llamatrain.config.compose import compose
from llamatrain.footprint import ModelCounts
from llamatrain.hardware import HOST_LINK, HOST_UPDATES, MFU, Machine
from llamatrain.model.config import ModelConfig
from llamatrain.pace import RECOMPUTED, exchanged, gathered, gathered_to_sample, offloaded, pace
from llamatrain.planning import HeldOut, Work
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
    slow = replace(HARDWARE, network_gigabytes_per_second=0.01)
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


def test_an_iteration_samples_its_own_share_and_no_more() -> None:
    """Ten iterations of 64 responses on 8 ranks are ten times 8 at once, however many would fit; on 128 ranks ten times one."""
    one = Work(MODEL, "bfloat16", whole=1, sampled=64, written_tokens=100, at_once=32, read_tokens=64 * 500)
    ten = replace(one, sampled=640, rounds=10, read_tokens=640 * 500)
    assert ten.responses(machine(1)) == 8 and replace(ten, rounds=1).responses(machine(1)) == 32
    for nodes in (1, 2, 16):
        alone, found = pace(one, machine(nodes)), pace(ten, machine(nodes))
        assert found.sampling == pytest.approx(tuple(10 * each for each in alone.sampling))
        assert found.reading == pytest.approx(tuple(10 * each for each in alone.reading))
    weights = 2 * MODEL.parameters / (0.6 * 2039e9)
    assert pace(ten, machine(16)).sampling[0] == pytest.approx(10 * 100 * weights, rel=0.01), "one response at a time"
    assert pace(ten, machine(16)).reading == pytest.approx(pace(ten, machine(8)).reading), "half of the ranks have none"
    assert pace(replace(ten, at_once=5), machine(1)).sampling[0] > 1.9 * pace(ten, machine(1)).sampling[0], (
        "5 and then 3"
    )


def test_models_that_are_read_are_gathered_once_an_iteration() -> None:
    """Of 16 responses of a rank, four at once: four passes of each of five models; updates exchange only what learns."""
    learning = replace(
        replace(work(3), model=replace(MODEL, activation_checkpointing="full")),
        micro_batch=4,
        rows=512,
        models=ModelCounts(2, 1),
        sampled=1024.0,
        rounds=1,
        steps=2,
        stays=True,
    )
    own = replace(learning, models=ModelCounts(2, 1, 3, 2))
    language, scalar = (2 * footprint.parameters(MODEL, kind) * 63 / 64 for kind in (False, True))
    assert exchanged(own, machine(8)) == exchanged(learning, machine(8)) == pytest.approx(6 * (language + scalar))
    tight, wide = (replace(machine(8), hardware=replace(HARDWARE, gpu_gigabytes=size)) for size in (85, 170))
    assert own.reads_whole(wide) and not own.reads_whole(tight)
    assert gathered(own, tight) == pytest.approx(4 * (2 * language + 3 * scalar))
    assert gathered(own, wide) == pytest.approx(4 * (language + scalar)), "those that learn alone"
    assert gathered(replace(own, sampled=3 * 1024.0, rounds=3), tight) == pytest.approx(3 * gathered(own, tight))
    assert gathered(learning, machine(8)) == gathered(replace(own, zero=work(2).zero), machine(8)) == 0
    slow = replace(tight, hardware=replace(tight.hardware, network_gigabytes_per_second=0.01))
    assert pace(own, slow).reading == pytest.approx((gathered(own, slow) / 0.08e9,) * 2)


def test_a_sharded_policy_is_gathered_once_to_sample_an_iteration() -> None:
    own = replace(work(3), sampled=640.0, rounds=10, stays=True, written_tokens=100)
    whole = 2 * footprint.parameters(MODEL) * 63 / 64
    assert gathered_to_sample(own, machine(8)) == pytest.approx(10 * whole)
    assert gathered_to_sample(replace(own, held_out=HeldOut(0, 8, 3)), machine(8)) == pytest.approx(13 * whole)
    assert gathered_to_sample(replace(own, zero=work(2).zero), machine(8)) == 0
    seconds = 10 * whole / machine(8).joined
    plain = pace(replace(own, zero=work(2).zero), machine(8)).sampling
    assert pace(own, machine(8)).sampling == pytest.approx(tuple(each + seconds for each in plain))


def test_what_is_measured_on_held_out_data_takes_time() -> None:
    plain, on = work(1), machine(8)
    read = replace(plain, held_out=HeldOut(tokens=1e6))
    operations = 2 * MODEL.parameters * 1e6
    assert pace(read, on).reading == pytest.approx(tuple(operations / (s * 64 * 312e12) for s in reversed(MFU)))
    alone, shared = (
        replace(plain, written_tokens=100, at_once=8, held_out=HeldOut(0, 64, 5, kind)) for kind in (True, False)
    )
    of_ranks, of_one = pace(shared, on).sampling, pace(alone, on).sampling
    assert pace(plain, on).sampling == (0, 0) and of_one[0] > 7 * of_ranks[0] > 0, "64 by rank 0, eight at once"
    assert pace(replace(shared, held_out=HeldOut(0, 64, 10)), on).sampling[1] == pytest.approx(2 * of_ranks[1])


def test_gpus_wait_for_states_in_host_memory() -> None:
    zero = ZeroConfig(3, "bfloat16", True, False)
    one, eight = (offloaded(replace(work(3), zero=zero), machine(nodes)) for nodes in (1, 8))
    assert one == pytest.approx(MODEL.parameters * (6 / 8 / HOST_LINK + 1 / HOST_UPDATES)) == 8 * eight
    assert offloaded(work(3), machine(1)) == 0
    both = replace(work(3), zero=zero, models=ModelCounts(2))
    assert offloaded(both, machine(1)) == 2 * one
    plain = pace(work(3), machine(8)).step
    assert pace(replace(work(3), zero=zero), machine(8)).step == pytest.approx(tuple(each + eight for each in plain))
