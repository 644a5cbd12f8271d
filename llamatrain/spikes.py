"""Loss spikes: found against the run's own recent past, undone, and their samples passed over.

A step offends when its loss or gradient norm is not finite or lies too far above the median of the last accepted steps.
With it offend the steps just before it that were already half as far above: the spike's onset. The run goes back to the
newest checkpoint from before the onset, passes over all samples of the offending steps and goes on; step counter and
learning rate count as ever. `incidents.jsonl` in the run folder names the samples and is the durable list of them.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from . import distributed
from .errors import UserError
from .run import Run
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .engine import Engine

LOSS, NORM = "train/loss", "train/grad_norm"
# The least standard deviation, as a share of the median: a window that is all alike would call any step a spike.
FLOORS = {LOSS: 0.02, NORM: 0.1}
RECENT = 8  # steps before an incident, in which a rising gradient norm would show


@dataclass
class SpikeConfig:
    """When a step is a spike, and how many a run may have; configs/pretrain.yaml says what each key means."""

    enabled: bool
    window: int
    min_steps: int
    loss_sigmas: float
    norm_sigmas: float
    max_incidents: int

    def __post_init__(self) -> None:
        """Check values."""
        if not 2 <= self.min_steps <= self.window:
            raise UserError(f"spikes.min_steps={self.min_steps}: need 2 to spikes.window={self.window}")
        for key in ("loss_sigmas", "norm_sigmas"):
            if getattr(self, key) <= 0:
                raise UserError(f"spikes.{key}={getattr(self, key)}: need a number above 0")
        if self.max_incidents < 0:
            raise UserError(f"spikes.max_incidents={self.max_incidents}: need 0 or more")


@dataclass(frozen=True)
class Spike:
    """A step that offends by one criterion, and how many steps offend, itself the last of them."""

    criterion: str
    value: float
    threshold: float
    steps: int


class Detector:
    """A rolling median and median absolute deviation of the last accepted steps' losses and gradient norms."""

    def __init__(self, config: SpikeConfig) -> None:
        self.sigmas = {LOSS: config.loss_sigmas, NORM: config.norm_sigmas}
        self.min_steps = config.min_steps
        self.past = {key: deque[float](maxlen=config.window) for key in self.sigmas}
        self.raised = 0  # steps up to the last one that were half as far above as a spike is

    def check(self, metrics: Mapping[str, float]) -> Spike | None:
        """Return what is wrong with a step, or accept it."""
        found = None
        half = False
        for key, past in self.past.items():
            value = metrics[key]
            if not math.isfinite(value):
                return Spike(key, value, math.inf, self.raised + 1)
            if len(past) < self.min_steps:
                continue
            middle, sigma = spread(past, FLOORS[key])
            threshold = middle + self.sigmas[key] * sigma
            if value > threshold and found is None:
                found = Spike(key, value, threshold, self.raised + 1)
            half |= value > middle + self.sigmas[key] / 2 * sigma
        if found is None:
            for key, past in self.past.items():
                past.append(metrics[key])
            self.raised = self.raised + 1 if half else 0
        return found

    def norm_before(self) -> float:
        """Return the mean gradient norm of the last accepted steps as a multiple of the window's median."""
        past = list(self.past[NORM])
        return statistics.fmean(past[-RECENT:]) / statistics.median(past) if past else 1.0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"past": {key: list(past) for key, past in self.past.items()}, "raised": self.raised}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a checkpoint's state, or none: the beginning."""
        for key, past in self.past.items():
            past.clear()
            past.extend(state.get("past", {}).get(key, ()))
        self.raised = state.get("raised", 0)


def spread(values: Sequence[float] | deque[float], floor: float) -> tuple[float, float]:
    """Return the median and the standard deviation that a normal distribution of this median absolute deviation has."""
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median([abs(value - middle) for value in values])
    return middle, max(deviation, floor * abs(middle))


class Batches(Protocol):
    """What is needed of batches: names for a step's samples, a list of those to pass over, and what they hold."""

    skip: list[int]

    def sample_ids(self, step: int) -> list[int]:
        """Return the global numbers of a step's samples under the skip list in force."""

    def describe(self, samples: Sequence[int], tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """Return `sample`, `source` and the beginning of the `text` of each sample."""


class Guard:
    """Watches the steps of a run; takes it back where one is a spike. All ranks call alike."""

    def __init__(self, config: SpikeConfig, batches: Batches, tokenizer: Tokenizer) -> None:
        self.config, self.batches, self.tokenizer = config, batches, tokenizer
        self.detector = Detector(config)

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint (or none) and the run's incidents say.

        UserError after too many incidents, and for samples to pass over that were trained on before the checkpoint.
        """
        self.detector.load(state.get("spikes", {}))
        known, asked = set(state.get("skip", ())), set(self.batches.skip)
        if state:
            self.batches.skip = sorted(known)
            coming = self.batches.sample_ids(run.step)[0]
            if late := sorted(sample for sample in asked - known if sample < coming):
                raise UserError(
                    f"skip_samples: sample {late[0]} was trained on before step {run.step}, where this run goes on "
                    f"(from sample {coming}): take it off, or start anew with run.resume=never or another run.name"
                )
        passed = {entry["sample"] for incident in run.incidents for entry in incident["samples"]}
        self.batches.skip = sorted(passed | asked | known)
        self._stop_after_too_many(run)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the skip list in force and the detector's window."""
        return {"skip": [int(sample) for sample in self.batches.skip], "spikes": self.detector.state()}

    def check(self, metrics: Mapping[str, float]) -> Spike | None:
        """Return what is wrong with a step's metrics, on all ranks alike: rank 0 decides."""
        if not self.config.enabled:
            return None
        spike = self.detector.check(metrics)
        if distributed.any_rank(spike is not None):  # they may differ in a last bit
            spike = distributed.broadcast_object(spike)
        return spike

    def undo(
        self, spike: Spike, metrics: Mapping[str, float], step: int, run: Run, engines: Mapping[str, Engine]
    ) -> int:
        """Record the incident at `step` (from 0), go back before it, pass over its samples; return the step to go on at."""
        first = step + 1 - spike.steps
        goal = run.before(first)
        made = self._incident(spike, metrics, step, first, goal, run) if run.is_main else {}
        incident = distributed.broadcast_object(made)
        run.record(incident)  # from here on a killed run does the rest when it resumes
        self._stop_after_too_many(run)
        restored, state = run.go_back(engines)
        self.resume(run, state)
        words = f"{spike.criterion} {spike.value:.4g} is " + (
            f"above {spike.threshold:.4g}" if math.isfinite(spike.value) else "not finite"
        )
        run.print(
            f"step {step + 1}: {words}. Back to step {restored}; {len(incident['samples'])} samples of "
            f"{spike.steps} step{'s' if spike.steps > 1 else ''} are passed over (incidents.jsonl, "
            f"{len(run.incidents)} of {self.config.max_incidents})"
        )
        return restored

    def _incident(
        self, spike: Spike, metrics: Mapping[str, float], step: int, first: int, goal: int, run: Run
    ) -> dict[str, Any]:
        """Return the line of incidents.jsonl; steps count from 1, as in metrics.jsonl."""
        samples = [
            {"step": at + 1, **entry}
            for at in range(first, step + 1)
            for entry in self.batches.describe(self.batches.sample_ids(at), self.tokenizer)
        ]
        return {
            "incident": len(run.incidents) + 1,
            "time": round(time.time(), 3),
            "step": step + 1,
            "first_step": first + 1,
            "back_to": goal,
            "criterion": spike.criterion,
            "value": _in_json(spike.value),
            "threshold": spike.threshold if math.isfinite(spike.threshold) else None,
            "norm_before": round(self.detector.norm_before(), 4),
            # They leave metrics.jsonl, to be made again.
            "undone": [
                {"step": row["step"], "loss": _in_json(row[LOSS]), "grad_norm": _in_json(row[NORM])}
                for row in (*run.logged_after(goal), {"step": step + 1, **metrics})
            ],
            "samples": samples,
        }

    def _stop_after_too_many(self, run: Run) -> None:
        if self.config.enabled and len(run.incidents) > self.config.max_incidents:
            raise UserError(
                f"{diagnosis(run.incidents, self.config.window)}. These are more than spikes.max_incidents="
                f"{self.config.max_incidents}: raise it to go on as before; {run.folder / 'incidents.jsonl'} has the "
                "samples with their texts"
            )


def _in_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no name for them


def diagnosis(incidents: Sequence[Mapping[str, Any]], window: int) -> str:
    """Say what a run's incidents have in common and what that speaks for."""
    steps = [incident["step"] for incident in incidents]
    broken = sum(incident["threshold"] is None for incident in incidents)
    said = [
        f"{len(incidents)} incidents, at steps {', '.join(map(str, steps[:10]))}{', ...' if len(steps) > 10 else ''}: "
        f"{broken} with a loss or gradient that is not finite, {len(incidents) - broken} spikes"
    ]
    sources = [entry["source"] for incident in incidents for entry in incident["samples"]]
    if sources:
        most = max(sorted(set(sources)), key=sources.count)
        said.append(f"{sources.count(most)} of their {len(sources)} samples are of the source {most}")
    rising = sum(incident["norm_before"] > 1.5 for incident in incidents)
    again = sum(0 <= late["first_step"] - early["step"] < window for early, late in itertools.pairwise(incidents))
    said.append(f"the gradient norm rose before {rising} of them; {again} came within {window} steps of the last one")
    if 2 * (rising + again) >= len(incidents):
        said.append("this looks like the model, not the data: lower optim.lr, or lengthen optim.warmup_steps")
    else:
        said.append("this looks like single samples: read their texts, and clean the corpus of what they share")
    return "; ".join(said)
