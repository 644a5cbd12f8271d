"""A plan in a few lines: every byte of a footprint is named, and figures are short."""

from __future__ import annotations

import pytest

from launch.estimate.chain import work_of
from llamatrain.hardware import Hardware
from llamatrain.here import here
from llamatrain.outlook import clock, outlook, parts, span


@pytest.mark.parametrize("more", [[], ["zero.offload_optimizer=true"]])
def test_the_columns_hold_all_of_a_footprint(more: list[str]) -> None:
    for program in ("pretrain", "ppo", "rejection_sampling", "sample"):
        work = work_of(program, ["preset=llama2_7b", *(more if program in ("pretrain", "ppo") else [])])
        for _, held, _ in work.phases(here(64, "bfloat16")):
            assert sum(parts(held).values()) == pytest.approx(held.total)
            assert min(parts(held).values()) >= 0


def test_ranges_are_short() -> None:
    assert (
        span((26.2, 31.7)) == "26–32" and span((223_000, 2_800_000)) == "223k–2.8M" and span((0.001, 0.002)) == "<0.01"
    )
    assert (
        clock((100, 200)) == "4.2–8.3 days"
        and clock((0.02, 0.03)) == "1.2–1.8 min"
        and clock((0.001, 0.002)) == "3.6–7.2 s"
    )


def test_a_dry_run_says_memory_time_and_checkpoints() -> None:
    work = work_of("sft", ["preset=llama2_7b"])
    memory, time, checkpoints = outlook(work, here(64, "bfloat16"))
    assert memory.startswith("memory: 20.3 GB per GPU while training (weights 13.5 GB, ")
    assert "of which the network needs " in time and "on 64 A100 (8 nodes of 8), at 35% to 43% of 312 TFLOP/s" in time
    assert checkpoints == "checkpoints: 1 of 94.3 GB; the newest 2 are kept: 94.3 GB"


def test_here_are_cores_unless_the_precision_asks_for_gpus() -> None:
    assert here(2, "float32").device == "cpu" and here(2, "float32").ranks == 2
    assert isinstance(here(2, "float32").hardware, Hardware) and here(12, "bfloat16").nodes == 2
