"""A pipeline's plan on this machine in two or three lines, for its dry run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from llamatrain.given import Given
from llamatrain.here import here
from llamatrain.outlook import basis, bytes_in_words, clock, unit
from llamatrain.pace import START

from ..plan import Planned
from ..programs import PROGRAMS
from .chain import Estimated, estimated, of_stages
from .fit import refusals

SHOWN = 3  # stages that take the longest


def brief(stages: Sequence[Planned], data_root: str | None, ranks: int, to_run: Collection[str]) -> Iterator[str]:
    """Yield what the stages to run take: time, memory, checkpoints; and a line for each that does not fit."""
    half = any((one.values.get("zero") or {}).get("dtype") == "bfloat16" for one in stages)
    dtype = "bfloat16" if half else "float32"
    found = estimated(
        of_stages(stages, data_root),
        Given(),
        lambda program, _: here(ranks if PROGRAMS[program].parallel else 1, dtype),
    )
    own = [one for one in found if one.work is not None and one.names[0] in to_run]
    if not own:
        return
    low, high = (sum(one.hours[end] + START / 3600 for one in own) for end in (0, 1))
    longest = ", ".join(f"{one.name} {clock(one.hours)}" for one in sorted(own, key=lambda one: -one.hours[1])[:SHOWN])
    most = max(own, key=_bytes)
    machine = max((one.machine for one in own), key=lambda one: one.ranks)
    disk = sum(one.work.kept_bytes for one in own if one.work)
    yield (f"about {clock((low, high))} on {machine} at {basis(machine)}; the longest: {longest}")
    yield f"at most {bytes_in_words(_bytes(most))} per {unit(machine)} ({most.name}); {bytes_in_words(disk)} of checkpoints stay"
    yield from refusals(own, machine.ranks_per_node)


def _bytes(one: Estimated) -> float:
    assert one.work is not None
    return one.work.most(one.machine)
