"""What the ranks of a program have on this machine, for the plans that dry runs print."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from .config.presets import config_folder
from .hardware import NODE, Hardware, Machine
from .memory import machine_memory
from .yaml_files import read_yaml

DISK = 0.5  # GB/s that a machine writes, where nobody configured it (an assumption)


def hardware_here() -> Hardware:
    """Return the default cluster's hardware, with the disk of a machine that nobody configured."""
    return replace(
        Hardware(**read_yaml(config_folder() / "cluster" / "single_node.yaml")["hardware"]),
        disk_gigabytes_per_second=DISK,
    )


def here(ranks: int, dtype: str, peak_tflops: float | None = None) -> Machine:
    """Return what so many ranks have on this machine: its GPUs, where torch is loaded and sees some, or its cores.

    In bfloat16 without GPUs it is a plan for elsewhere: nodes of eight as configs/cluster/single_node.yaml has them.
    """
    hardware = hardware_here()
    if peak_tflops is not None:
        hardware = replace(hardware, gpu_tflops=peak_tflops)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        own = torch.cuda.get_device_properties(0)
        return Machine(replace(hardware, gpu=own.name, gpu_gigabytes=own.total_memory / 1e9), 1, ranks, gpus=True)
    if dtype == "bfloat16":
        return Machine(hardware, -(-ranks // NODE), min(NODE, ranks), gpus=True)
    cores = len(os.sched_getaffinity(0))
    return Machine(hardware, 1, ranks, False, max(1.0, cores / ranks), float(machine_memory()))
