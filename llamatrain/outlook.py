"""A plan in a few lines, as dry runs print it: what a rank holds, how long it takes, what stays on disk. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .footprint import Footprint
from .hardware import CORE_SHARE, MFU, Machine
from .pace import START, pace
from .planning import Planner, Work

PARTS = ("weights", "grad.", "opt.", "gather", "activ.", "logits", "cache")
Range = tuple[float, float]
LEAST = 0.01  # of a figure in a table


def parts(held: Footprint) -> dict[str, float]:
    """Return what a device holds in a phase, by kind, in bytes; without what of the states lies in host memory.

    `gather` are whole weights at stage 3 and the buffers of communication.
    """
    states, there, own = held.states, held.states.host, list[float]()
    # Offloaded are the optimizer's states first, then gradients, then weights.
    for part in (states.masters + states.moments, states.gradients, states.weights):
        own.append(max(0.0, part - there))
        there = max(0.0, there - part)
    optimizer, gradients, weights = own
    rest = held.gathered + held.buckets, held.activations + held.working, held.logits, held.cache
    return dict(zip(PARTS, (weights + held.read, gradients, optimizer, *rest), strict=True))


def outlook(work: Work, machine: Machine) -> Iterator[str]:
    """Yield lines about memory, time and checkpoints."""
    name, held, _ = max(work.phases(machine), key=lambda phase: phase[1].total)
    kinds = ", ".join(f"{kind} {bytes_in_words(value)}" for kind, value in parts(held).items() if value)
    room = f"of {bytes_in_words(machine.memory)} at most {bytes_in_words(machine.usable)} are used"
    fits = "" if held.total <= machine.usable else "it does not fit: "
    yield f"memory: {fits}{bytes_in_words(held.total)} per {unit(machine)} while {name} ({kinds}); {room}"
    took = pace(work, machine)
    step = f"{span(took.step)} s per step" if took.step[1] else ""
    network = f", of which the network needs {took.network:.2g}" if took.network else ""
    hours = (took.seconds[0] / 3600, took.seconds[1] / 3600)
    whole = f"{clock(hours)} in all" if took.seconds[1] else ""
    start = f" beside a start of {START:.0f} s" if 0 < took.seconds[1] < 3600 else ""
    yield f"time: {', '.join(filter(None, (step + network, whole)))}{start} on {machine}, at {basis(machine)}"
    if work.checkpoint_bytes:
        kept = f"the newest {work.keep} are kept" if work.keep else "all are kept"
        yield f"checkpoints: {work.saved:,.0f} of {bytes_in_words(work.checkpoint_bytes)}; {kept}: {bytes_in_words(work.kept_bytes)}"


def told(planner: Planner, cfg: Any, ranks: int, **known: Any) -> str:
    """Return the outlook of a program's settings on this machine; `known` are figures of its work that the data gave."""
    from .given import Given
    from .here import here  # knows of torch, which plans do without

    work = planner(cfg, Given())
    assert isinstance(work, Work)
    return "\n".join(outlook(replace(work, **known), here(ranks, cfg.zero.dtype, getattr(cfg, "peak_tflops", None))))


def basis(machine: Machine) -> str:
    """Say at which speed."""
    if machine.gpus:
        return f"{MFU[0]:.0%} to {MFU[1]:.0%} of {machine.hardware.gpu_tflops:g} TFLOP/s"
    low, high = (share * machine.hardware.core_gflops for share in CORE_SHARE)
    return f"{low:.0f} to {high:.0f} GFLOP/s per core"


def unit(machine: Machine) -> str:
    """Say what computes."""
    return "GPU" if machine.gpus else "rank"


# --- figures for people ------------------------------------------------------------------------------------------


def span(pair: Range) -> str:
    """Write a range shortly: 8.1–9.9, 350–430, 1.2k–1.5k."""
    low, high = (short(value) for value in pair)
    return high if low == high else f"{low}–{high}"


def clock(hours: Range) -> str:
    """Write a range of hours in the unit that suits it."""
    for least, unit, each in ((48.0, "days", 24.0), (1.0, "h", 1.0), (1 / 60, "min", 1 / 60)):
        if hours[1] >= least:
            return f"{span((hours[0] / each, hours[1] / each))} {unit}"
    return f"{span((hours[0] * 3600, hours[1] * 3600))} s"


def short(value: float) -> str:
    """Write a number with two or three digits: 1.23k, 26, 1.6."""
    for least, unit in ((1e6, "M"), (1e3, "k")):
        if value >= least:
            return f"{value / least:.3g}{unit}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}" if value >= LEAST else f"<{LEAST}" if value else "0"


def bytes_in_words(value: float) -> str:
    """Write bytes with three digits: 966 GB, 1.93 TB."""
    for least, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if value >= least:
            return f"{value / least:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"
