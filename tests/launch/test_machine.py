"""What the machine has, without asking torch."""

from __future__ import annotations

import os

import pytest

from launch import machine
from launch.machine import CORE, this_machine


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = this_machine()
    assert (here.gpus, here.devices, here.speed) == (0, here.cores, here.cores * CORE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert this_machine().devices == 2


def test_of_a_launcher_every_ranks_share_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "12")
    assert machine.used(16, launched=True) == (192, 16)  # two machines of eight GPUs
    assert machine.used(2, launched=False) == (len(os.sched_getaffinity(0)), 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.used(2, launched=True) == (24, 0)
