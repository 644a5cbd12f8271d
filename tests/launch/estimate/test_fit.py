"""What does not fit is named with what it needs, what there is, and the smallest change that fits."""

from __future__ import annotations

import pytest

from launch.estimate.chain import Estimated, work_of
from launch.estimate.fit import advice, refusals
from launch.slurm.config import SlurmConfig
from llamatrain.config.compose import compose
from llamatrain.hardware import Machine
from llamatrain.planning import smallest_change

A100 = 85e9


def on(gpus: int, host: float = 0.0) -> Machine:
    hardware = compose("slurm", SlurmConfig, ["program=ppo"]).cluster.hardware
    return Machine(hardware, max(1, gpus // 8), min(gpus, 8), gpus=True, node_bytes=host)


@pytest.mark.parametrize("preset", ["llama2_34b", "llama2_70b"])
def test_whole_models_of_34b_and_70b_do_not_sample_on_80_gb(preset: str) -> None:
    for name in ("sample", "rejection_sampling", "ppo"):
        work = work_of(name, [f"preset={preset}"])
        assert not work.fits(A100, 8)
        (told,) = refusals([Estimated((name,), name, on(8), work)], 8)
        assert told.startswith(f"{name} does not fit 8 A100: sampling needs ")
        assert "of its 85 GB 68 can be used" in told and "need GPUs of " in told


def test_what_a_gpu_needs_holds_for_the_number_that_is_named() -> None:
    work = work_of("ppo", ["preset=llama2_70b"])
    shown = advice(work, A100, 8, 8)
    assert f"need GPUs of {work.most(0.8 * A100, 8) / 0.8e9:,.0f} GB on 8 as it is, or of " in shown
    assert "GB on 1,024 with zero.offload_optimizer=true, or a smaller model" in shown and "are whole" in shown
    large = work_of("pretrain", ["preset=llama2_70b"])
    row = advice(large, 5e9, 8, 8)  # a row's activations exceed it on any number: no whole model is to blame
    assert "whole" not in row and f"{large.most(4e9, 8) / 0.8e9:,.0f} GB on 8 as it is" in row


def test_the_smallest_change_is_one_that_fits() -> None:
    work = work_of("pretrain", ["preset=llama2_13b"])
    assert work.fits(A100, 64)
    assert smallest_change(work, 40e9, 8) is not None
    assert (
        advice(work_of("pretrain", ["preset=llama2_70b"]), A100, 8, 8)
        == "it would fit with zero.offload_optimizer=true"
    )


def test_offloaded_states_need_host_memory() -> None:
    work = work_of("pretrain", ["preset=llama2_70b", "zero.offload_optimizer=true"])
    (told,) = refusals([Estimated(("pretrain",), "pretrain", on(8, 900e9), work)], 8)
    assert "GB of host memory per node, a job may use 900" in told
    assert not list(refusals([Estimated(("pretrain",), "pretrain", on(64, 900e9), work)], 8))
