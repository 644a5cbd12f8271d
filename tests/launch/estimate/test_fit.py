"""What does not fit is named with what it needs, what there is, and the smallest change that fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launch.estimate.__main__ import OWN
from launch.estimate.chain import Estimated, work_of
from launch.estimate.config import PlanConfig
from launch.estimate.fit import advice, refusals
from launch.slurm.arguments import split
from launch.slurm.config import SlurmConfig, need_of
from launch.slurm.script import seconds_of
from llamatrain.config.compose import compose
from llamatrain.hardware import Machine
from llamatrain.pace import pace
from llamatrain.planning import smallest_change


def on(gpus: int, host: float = 0.0) -> Machine:
    hardware = compose("slurm", SlurmConfig, ["program=ppo"]).cluster.hardware
    return Machine(hardware, max(1, gpus // 8), min(gpus, 8), gpus=True, node_bytes=host)


@pytest.mark.parametrize("preset", ["llama2_34b", "llama2_70b"])
def test_whole_models_of_34b_and_70b_do_not_sample_on_80_gb(preset: str) -> None:
    for name in ("sample", "rejection_sampling", "ppo"):
        work = work_of(name, [f"preset={preset}"])
        assert not work.fits(on(8))
        (told,) = refusals([Estimated((name,), name, on(8), work)], 8)
        assert told.startswith(f"{name} does not fit 8 A100: sampling needs ")
        assert "of its 85 GB 68 can be used" in told and "need GPUs of " in told


def test_both_models_of_compare_stay_in_memory() -> None:
    one, two = (work_of("compare", ["preset=llama2_7b", *more]) for more in ([], ["checkpoint_b=runs/rs/final"]))
    held = [
        next(footprint.read for name, footprint, _ in work.phases(on(8)) if name == "sampling") for work in (one, two)
    ]
    assert held[1] == 2 * held[0]


def test_trials_and_what_is_held_out_are_sampled_too() -> None:
    """The presets try nine temperatures on 100 prompts, and set 512 prompts apart from PPO."""
    tried, not_tried = (
        work_of("rejection_sampling", ["preset=llama2_7b", *more]) for more in ([], ["try_temperatures=[]"])
    )
    assert tried.sampled - not_tried.sampled == 9 * 100 * 16
    apart, none = (work_of("ppo", ["preset=llama2_7b", *more]) for more in ([], ["hold_out=0", "run.patience=null"]))
    assert (apart.held_out.responses, none.held_out.responses) == (512, 0)
    assert apart.held_out.tokens > none.held_out.tokens == 0


def test_what_a_gpu_needs_holds_for_the_number_that_is_named() -> None:
    work = work_of("ppo", ["preset=llama2_70b"])
    shown = advice(work, on(8), 8)
    assert f"need GPUs of {work.most(on(8)) / 0.8e9:,.0f} GB on 8 as it is, or of " in shown
    assert "GB on 1,024 with zero.offload_optimizer=true, or a smaller model" in shown and "are whole" in shown
    large = work_of("pretrain", ["preset=llama2_70b"])
    small = replace(on(8), hardware=replace(on(8).hardware, gpu_gigabytes=5))
    row = advice(large, small, 8)  # a row's activations exceed it on any number: no whole model is to blame
    assert "whole" not in row and f"{large.most(small) / 0.8e9:,.0f} GB on 8 as it is" in row


def test_the_smallest_change_is_one_that_fits() -> None:
    work = work_of("pretrain", ["preset=llama2_13b"])
    assert work.fits(on(64))
    assert smallest_change(work, replace(on(8), hardware=replace(on(8).hardware, gpu_gigabytes=40)), 8) is not None
    large = work_of("pretrain", ["preset=llama2_70b"])
    assert advice(large, on(8), 8) == "it would fit with zero.offload_optimizer=true"
    # Of two changes that help the GPUs, the one that the hosts' memory allows.
    assert advice(large, on(8, 900e9), 8) == "it would fit with zero.offload_optimizer=true, 16 GPUs"


def test_offloaded_states_need_host_memory() -> None:
    work = work_of("pretrain", ["preset=llama2_70b", "zero.offload_optimizer=true"])
    (told,) = refusals([Estimated(("pretrain",), "pretrain", on(8, 900e9), work)], 8)
    assert "GB of host memory per node, a job may use 900; it would fit with 16 GPUs" in told
    assert not list(refusals([Estimated(("pretrain",), "pretrain", on(64, 900e9), work)], 8))


@pytest.mark.parametrize("preset", ["llama2_7b", "llama2_13b", "llama2_34b", "llama2_70b"])
def test_what_a_presets_stages_ask_of_slurm_fits_and_suffices(preset: str) -> None:
    """On nodes of eight A100 with 80 GB: of the time, as the plan has it, twice as much."""
    given = ["program=pipeline", "cluster=a100_80g_infiniband", f"preset={preset}"]
    cfg = compose("plan", PlanConfig, split(given, OWN, ("cluster", "resources"))[0])
    assert {"pretrain", "sft", "reward"} <= cfg.resources.keys()
    for name, own in cfg.resources.items():
        program = name.replace("reward_", "reward.")
        held_out = ["preferences=[pairs_eval.jsonl]"] if program == "reward.evaluate" else []
        work = work_of(program, [f"preset={preset}", *held_out])
        machine = need_of(cfg.cluster, cfg.resources, program, program).machine(cfg.cluster.hardware)
        assert work.fits(machine), name
        assert own.time is None or 2 * pace(work, machine).seconds[1] < seconds_of(own.time), name


def test_the_users_number_of_nodes_counts_more_than_a_presets() -> None:
    for typed in ("cluster.nodes=2", "gpus=16"):
        own, _ = split(["program=pipeline", "preset=llama2_7b", typed], OWN, ("cluster", "resources"))
        cfg = compose("plan", PlanConfig, own)
        assert cfg.resources["ppo"].nodes is None and cfg.resources["ppo"].time == "12:00:00"
    own, _ = split(["preset=llama2_7b", "resources.ppo.nodes=2"], OWN, ("cluster", "resources"))
    assert compose("plan", PlanConfig, own).resources["ppo"].nodes == 2
