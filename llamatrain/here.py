"""What the ranks of a program have on this machine, for the plans that dry runs print."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import Any

from .config.presets import config_folder
from .hardware import Hardware, Machine
from .memory import machine_memory
from .yaml_files import read_yaml

DISK = 0.5  # GB/s that a machine writes, where nobody configured it (an assumption)


def hardware_here() -> Hardware:
    """Return the default cluster's hardware, with the disk of a machine that nobody configured."""
    return replace(Hardware(**_default_cluster()["hardware"]), disk_gigabytes_per_second=DISK)


def _default_cluster() -> dict[str, Any]:
    values: dict[str, Any] = read_yaml(config_folder() / "cluster" / "single_node.yaml")
    return values


def here(ranks: int, dtype: str, peak_tflops: float | None = None) -> Machine:
    """Return what so many ranks have on this machine: its GPUs, where torch is loaded and sees some, or its cores.

    More ranks than GPUs are on nodes like this one. In bfloat16 without GPUs it is a plan for elsewhere, on nodes as
    configs/cluster/single_node.yaml has them.
    """
    hardware = hardware_here()
    if peak_tflops is not None:
        hardware = replace(hardware, gpu_tflops=peak_tflops)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        own, each = torch.cuda.get_device_properties(0), min(ranks, torch.cuda.device_count())
        hardware = replace(hardware, gpu=own.name, gpu_gigabytes=own.total_memory / 1e9)
        return Machine(hardware, -(-ranks // each), each, gpus=True)
    if dtype == "bfloat16":
        each = min(ranks, _default_cluster()["gpus_per_node"])
        return Machine(hardware, -(-ranks // each), each, gpus=True)
    cores = len(os.sched_getaffinity(0))
    return Machine(hardware, 1, ranks, False, max(1.0, cores / ranks), float(machine_memory()))
