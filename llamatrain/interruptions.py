"""What failures cost a long run: how many to expect, what share of the time trains, how often to save. Pure; no torch.

The model: each node fails on its own at a constant rate, whenever the job holds it, and any failure ends the attempt. What was
done since the last checkpoint is lost; the job queues, starts up and goes on from there. Every attempt begins at a
checkpoint, so the expected time has a closed form (`expected`); with checkpoints that are still being written while
training goes on it has none, and `launch.simulation` plays the run through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DAY = 86400.0

# Failures per node of eight GPUs and day, of jobs in production.
PUBLISHED = {
    # 419 unexpected interruptions in 54 days on 16,384 H100 (The Llama 3 Herd of Models, 3.3.4)
    "llama3_405b": 419 / 54 / 2048,
    # One in 7.5 hours on about 1,000 A100 (OPT-175B, arXiv 2205.01068: 992 GPUs, 124 nodes), software's and people's included
    "opt_175b": 24 / 7.5 / 124,
    # Two research clusters of A100 over eleven months (Kokolis et al., arXiv 2410.21680): hardware failures alone
    "rsc_1": 6.50e-3,
    "rsc_2": 2.34e-3,
}


@dataclass(frozen=True)
class Job:
    """A run of many steps on nodes that fail. Times are in seconds; a checkpoint follows the last step in any case."""

    steps: int
    step_seconds: float
    nodes: int
    failures_per_node_day: float
    save_every: int = 0  # steps between checkpoints (0: at the end alone)
    save_seconds: float = 0.0  # training stands still
    publish_seconds: float = 0.0  # until the checkpoint is written behind training, and a failure no longer costs it
    start_seconds: float = 0.0  # from the start of the processes to the first step, loading included
    queue_seconds: float = 0.0  # from a failure to the next start, and before the first: nothing is held meanwhile
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        """Refuse what no job can be."""
        if self.steps < 1 or self.nodes < 1 or self.step_seconds <= 0:
            raise ValueError(f"need steps, nodes and step_seconds above 0, found {self}")
        times = (self.save_every, self.save_seconds, self.publish_seconds, self.start_seconds, self.queue_seconds)
        if min(*times, self.failures_per_node_day, self.gpus_per_node) < 0:
            raise ValueError(f"need no negative number, found {self}")

    @property
    def failure_rate(self) -> float:
        """Failures of all nodes together, per second."""
        return self.nodes * self.failures_per_node_day / DAY

    @property
    def productive_seconds(self) -> float:
        """What the steps would take without failures and checkpoints."""
        return self.steps * self.step_seconds

    @property
    def interval(self) -> int:
        """Steps between checkpoints, at most all."""
        return min(self.save_every or self.steps, self.steps)


@dataclass(frozen=True)
class Expected:
    """Means over all the ways that a job can go."""

    seconds: float  # from submission to the last checkpoint, queueing included
    held_seconds: float  # of these the job holds its nodes
    interruptions: float
    effective: float  # productive time as a share of `seconds`

    def lost_gpu_hours(self, job: Job) -> float:
        """Return the GPU hours that were held and trained nothing that lasts."""
        return (self.held_seconds - job.productive_seconds) * job.nodes * job.gpus_per_node / 3600


def mean_seconds_between(nodes: int, failures_per_node_day: float) -> float:
    """Return the mean time between failures of a job, in seconds; infinite where nothing fails."""
    rate = nodes * failures_per_node_day / DAY
    return 1 / rate if rate else math.inf


def expected(job: Job) -> Expected:
    """Return the exact expectations of a job, without `publish_seconds`; infinite where it would never end.

    A stretch of length L that must pass without a failure takes (exp(rate L) - 1) / rate of held time on average, a start-up
    before each further try included in L from the first failure on. It is Daly's total time (2006), for whole steps, with
    failures while starting up, and with queueing.
    """
    full, rest = divmod(job.steps, job.interval)
    lengths = [(full, job.interval * job.step_seconds + job.save_seconds)]
    lengths += [(1, rest * job.step_seconds + job.save_seconds)] if rest else []
    rate, start = job.failure_rate, job.start_seconds
    try:
        # Tries of a start-up until one succeeds; each but the first follows a failure.
        again = math.exp(rate * start)
        started = _held(rate, start)
        # Failures within a stretch, and the time that it is held between them.
        failures = sum(count * math.expm1(rate * length) for count, length in lengths)
        held = started + sum(count * _held(rate, length) for count, length in lengths) + failures * started
        interruptions = (again - 1) + failures * again
    except OverflowError:
        return Expected(math.inf, math.inf, math.inf, 0.0)
    seconds = held + (1 + interruptions) * job.queue_seconds
    return Expected(seconds, held, interruptions, job.productive_seconds / seconds)


def _held(rate: float, length: float) -> float:
    """Return the mean time until a stretch of this length has passed without a failure, tried again at once."""
    return math.expm1(rate * length) / rate if rate else length


def effective_ratio(job: Job) -> float:
    """Return the expected effective training time ratio by the first-order formula of arXiv 2410.21680; 0 beyond its range.

    (1 - N r (u + t / 2)) / (1 + w / t): N nodes that fail at rate r, u seconds from a failure to the first step, t between
    checkpoints, w to save one. It takes losses as small and additive: `expected` says what they are where they are not.
    """
    between = job.interval * job.step_seconds
    lost = job.failure_rate * (job.queue_seconds + job.start_seconds + between / 2)
    return max(0.0, 1 - lost) / (1 + job.save_seconds / between)


def young(save_seconds: float, mean_seconds: float) -> float:
    """Return the seconds of training between checkpoints that cost least, to first order (Young 1974): sqrt(2 w M)."""
    return math.sqrt(2 * save_seconds * mean_seconds)


def daly(save_seconds: float, mean_seconds: float) -> float:
    """Return the same to higher order (Daly 2006); the mean time between failures where saving takes more than twice that."""
    if save_seconds >= 2 * mean_seconds:
        return mean_seconds
    if math.isinf(mean_seconds):
        return math.inf
    share = save_seconds / (2 * mean_seconds)
    return young(save_seconds, mean_seconds) * (1 + math.sqrt(share) / 3 + share / 9) - save_seconds
