"""Plays a run through many times, with failures, queueing and start-ups: the distribution of what `interruptions.expected` has the mean of.

All trials go side by side, an attempt of each at a time: queue, start up, train from the last checkpoint until the next
failure or the end. A node's failures are exponential, so the nodes' first failure is, too, at the sum of their rates; the
time in the queue is exponential with the job's mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamatrain.interruptions import DAY, Job, expected

from .report.figures import histogram as histogram_of
from .report.standalone import svg

Array = npt.NDArray[np.float64]
QUANTILES = (0.05, 0.5, 0.95)
MOST_ATTEMPTS = 100_000  # of one trial: beyond it the job does not end
BARS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Simulated:
    """What came out of each trial (T,)."""

    job: Job
    seconds: Array  # from submission to the last checkpoint
    held_seconds: Array  # of these the nodes were held
    interruptions: Array
    repeated_steps: Array  # steps that a failure cost, and that were taken again

    @property
    def days(self) -> Array:
        """Days from submission to the last checkpoint (T,)."""
        return self.seconds / DAY

    @property
    def lost_gpu_hours(self) -> Array:
        """GPU hours that were held and trained nothing that lasts (T,)."""
        return (self.held_seconds - self.job.productive_seconds) * self.job.nodes * self.job.gpus_per_node / 3600


def simulate(job: Job, trials: int = 10_000, seed: int = 0) -> Simulated:
    """Play a job through; ValueError where failures leave it no way to its end."""
    if expected(job).interruptions > MOST_ATTEMPTS:  # without publishing, which only adds to them
        raise ValueError(
            f"{trials} of {trials} trials do not end: too many failures for a checkpoint every {job.interval} steps"
        )
    draw = np.random.default_rng(seed)
    interval, step = job.interval, job.step_seconds
    stretch = interval * step + job.save_seconds
    done, held, waited, failures, repeated = np.zeros((5, trials))
    going = np.arange(trials)  # trials that have not ended
    for _ in range(MOST_ATTEMPTS):
        waited[going] += draw.exponential(job.queue_seconds, len(going)) if job.queue_seconds else 0.0
        left = job.steps - done[going]
        saves = np.ceil(left / interval)
        needed = job.start_seconds + left * step + saves * job.save_seconds + job.publish_seconds
        failed = draw.exponential(1 / job.failure_rate, len(going)) if job.failure_rate else np.full(len(going), np.inf)
        over = failed < needed
        held[going] += np.minimum(failed, needed)
        # Of those that fail: what was published by then stays, what was trained since is trained again.
        trained = np.maximum(failed[over] - job.start_seconds, 0.0)
        reached = np.floor(trained / stretch) * interval + np.floor(
            np.minimum(trained % stretch, interval * step) / step
        )
        reached = np.minimum(reached, left[over])
        kept = np.floor(np.maximum(trained - job.publish_seconds, 0.0) / stretch) * interval
        going = going[over]
        done[going] += kept
        repeated[going] += reached - kept
        failures[going] += 1
        if not len(going):
            return Simulated(job, held + waited, held, failures, repeated)
    raise ValueError(
        f"{len(going)} of {trials} trials do not end: too many failures for a checkpoint every {interval} steps"
    )


def histogram(values: Array, bins: int = 12, width: int = 40) -> Iterator[str]:
    """Yield the lines of a small histogram: where a bin begins, its bar, its share."""
    counts, edges = np.histogram(values, bins=bins)
    labels = [f"{edge:,.1f}" for edge in edges[:-1]]
    for label, count in zip(labels, counts, strict=True):
        eighths = round(8 * width * count / counts.max())
        bar = "█" * (eighths // 8) + BARS[eighths % 8].strip()
        yield f"{label.rjust(max(map(len, labels)))} {bar.ljust(width)} {count / len(values):.1%}"


def drawn(found: Simulated, title: str) -> str:
    """Return the distributions of days and of lost GPU hours as an SVG, with the median and where nine of ten trials lie."""
    names = ("5 %", "median", "95 %")
    drawings = []
    for name, values, colour in (("Days", found.days, 1), ("Lost GPU hours", found.lost_gpu_hours, 3)):
        marks = list(zip(names, (float(one) for one in np.quantile(values, QUANTILES)), strict=True))
        about = f"{name} in {len(values):,} trials: {', '.join(f'{mark} {value:,.1f}' for mark, value in marks)}"
        drawings.append((name, histogram_of(values.tolist(), "", about, marks, colour)))
    return svg(title, drawings)


def told(found: Simulated) -> Iterator[str]:
    """Yield in lines what a simulation found: the distribution of days and of lost GPU hours, and what they consist of."""
    job, trials = found.job, len(found.seconds)
    yield f"{trials:,} trials at the slowest on {job.nodes:,} node{'s' * (job.nodes != 1)}, {job.productive_seconds / DAY:,.1f} days without failures or checkpoints"
    shown = (
        ("days", found.days),
        ("lost GPU hours", found.lost_gpu_hours),
        ("interruptions", found.interruptions),
        ("steps taken again", found.repeated_steps),
    )
    for name, values in shown:
        low, middle, high = np.quantile(values, QUANTILES)
        yield f"{name:<17}  median {middle:>12,.1f}   5 to 95 %: {low:,.1f} to {high:,.1f}   mean {values.mean():,.1f}"
    yield f"effective time     {job.productive_seconds / found.seconds.mean():.1%}"
    for name, values in shown[:2]:
        if np.ptp(values):
            yield from ("", name, *histogram(values))
