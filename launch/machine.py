"""What this machine has: cores or GPUs, and the speed that training may be reckoned with. Asks nothing that imports torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from llamatrain.hardware import peak_of

# Floating-point operations a second, of parameters and attention (`llamatrain.flops`), that pretraining reached on a core
# of the machines in benchmarks/: demo and fairytales on two cores, their held-out losses included.
CORE = 40e9
UNKNOWN_PEAK = 100  # of a GPU, TFLOP/s; small models reach a small share of it. No GPU has been measured
SHARE_OF_PEAK = 0.1


@dataclass(frozen=True)
class Machine:
    """What training runs on; `speed` are operations a second of all of it, by a rule and not measured."""

    cores: int
    gpus: int
    speed: float
    name: str

    @property
    def devices(self) -> int:
        """How many processes can train side by side."""
        return self.gpus or self.cores


def this_machine() -> Machine:
    """Return what this process may use."""
    cores, gpus = len(os.sched_getaffinity(0)), count_gpus()
    if not gpus:
        return Machine(cores, 0, cores * CORE, f"{cores} CPU core{'s' * (cores > 1)}")
    model = _gpu_model()
    peak = peak_of(model) or UNKNOWN_PEAK
    return Machine(cores, gpus, gpus * peak * 1e12 * SHARE_OF_PEAK, f"{gpus} GPU{'s' * (gpus > 1)} ({model})")


def used(ranks: int, launched: bool) -> tuple[int, int]:
    """Return the cores and the GPUs that so many ranks use: of this machine, or of all on which a launcher started them."""
    each = os.environ.get("SLURM_CPUS_PER_TASK", "") if launched else ""
    cores = ranks * int(each) if each.isdigit() else len(os.sched_getaffinity(0))
    gpus = count_gpus()
    return cores, ranks if launched and gpus else min(gpus, ranks)


def count_gpus() -> int:
    """Return how many GPUs this machine lets us see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _gpu_model() -> str:
    """Return the name of the first GPU, as far as its driver's tool says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    asked = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return (asked.stdout.splitlines() or ["unknown"])[0].strip()
