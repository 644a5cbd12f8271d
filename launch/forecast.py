"""How failures draw a run out, before it starts, and how often to save.

GPU hours come from the plan's arithmetic. Failures are those of llamatrain/interruptions.py, in closed form; with `simulate`
the run is played through (simulation.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llamatrain import atomic
from llamatrain.errors import UserError
from llamatrain.interruptions import DAY, Job, daly, expected, mean_seconds_between
from llamatrain.keys import above, check_values, least


@dataclass
class Failures:
    """How often nodes fail and what a restart takes; configs/failures/ says what each key means."""

    per_node_day: float = field(metadata=least(0))
    save_seconds: float = field(metadata=least(0))
    publish_seconds: float | None = field(metadata=least(0))
    start_seconds: float = field(metadata=above(0))
    queue_seconds: float = field(metadata=least(0))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self, "failures.")


def job_of(failures: Failures, steps: int, gpu_hours: float, gpus: int, gpus_per_node: int, save_every: int) -> Job:
    """Return a run of so many steps and GPU hours as a job on nodes that fail."""
    return Job(
        steps=steps,
        step_seconds=gpu_hours * 3600 / gpus / steps,
        nodes=-(-gpus // gpus_per_node),
        failures_per_node_day=failures.per_node_day,
        save_every=save_every,
        save_seconds=failures.save_seconds,
        publish_seconds=failures.publish_seconds or 0.0,
        start_seconds=failures.start_seconds,
        queue_seconds=failures.queue_seconds,
        gpus_per_node=min(gpus, gpus_per_node),
    )


def drawn_out(fastest: Job, slowest: Job) -> Iterator[str]:
    """Yield how failures draw a run out, for the ends of the range of its speed, and how often to save."""
    ends = [expected(job) for job in (fastest, slowest)]
    mean = mean_seconds_between(slowest.nodes, slowest.failures_per_node_day)
    yield (
        f"failures: one in {mean / 3600:,.3g} h on {slowest.nodes:,} node{'s' * (slowest.nodes != 1)}, {ends[0].interruptions:,.3g} to "
        f"{ends[1].interruptions:,.3g} in all; effective time {ends[1].effective:.1%} to {ends[0].effective:.1%}: "
        f"{ends[0].seconds / DAY:,.4g} to {ends[1].seconds / DAY:,.4g} days"
    )
    best = daly(slowest.save_seconds, mean) / slowest.step_seconds
    if best < slowest.steps:
        yield f"checkpoints: every {slowest.interval:,} steps; {max(1, round(best)):,} would cost the least time at the slowest (Daly 2006)"


def played(job: Job, seed: int, drawing: Path, title: str) -> Iterator[str]:
    """Yield what playing a run through finds, and draw it into a file."""
    from .simulation import drawn, simulate, told  # numpy, which a plan's --help does without

    try:
        found = simulate(job, seed=seed)
        yield from told(found)
        drawing.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(drawing, drawn(found, title))
    except ValueError as error:
        raise UserError(f"simulate=true: {error}") from None
    except OSError as error:
        raise UserError(f"drawing={drawing}: cannot be written ({error.strerror})") from None
    yield f"drawn in {drawing}"
