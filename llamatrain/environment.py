"""With what a run was made: version, commit, machine. Written into status.json, read by the report."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import __version__

PACKAGES = ("torch", "deepspeed")


def environment() -> dict[str, str | int]:
    """Return versions, the commit (empty where there is no checkout), processor and cores; the GPU where torch sees one."""
    found: dict[str, str | int] = {"llamatrain": __version__, "commit": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found |= {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "gpu": gpu()}
    if "LOCAL_WORLD_SIZE" in os.environ:
        found["ranks_per_node"] = int(os.environ["LOCAL_WORLD_SIZE"])
    return {**found, **({"gpu_bytes": gpu_bytes()} if found["gpu"] else {})}


def commit() -> str:
    """Return the checkout's commit, with -dirty where files differ from it."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    # `describe` for its -dirty; --exclude keeps tags out, which would take the commit's place.
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def peak_memory() -> float:
    """Return the bytes that this process held at most: allocated on its GPU or, without one, resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def gpu() -> str:
    """Return the first GPU's name; torch is asked only where the program has imported it, which takes seconds."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name(0)) if torch is not None and torch.cuda.is_available() else ""


def gpu_bytes() -> int:
    """Return the first GPU's memory."""
    return int(sys.modules["torch"].cuda.get_device_properties(0).total_memory)
