"""Loss spikes: detected against the run's own recent past, rolled back, and their samples skipped.

A step is flagged when its loss or gradient norm is not finite or lies too far above the median of the last accepted
steps. The steps just before it that were already half as far above are flagged with it: they are the start of the
spike. The run rolls back to the newest checkpoint from before that start, skips all samples of the flagged steps and
goes on; step counter and learning rate continue unchanged. When it reaches the skipped range again, with the weights of
just before the spike, it looks ahead: the losses of the next global batches are measured forward only, and those that
are outliers, too, are added to the incident. So a burst of bad batches costs a single rollback. `incidents.jsonl` in the
run folder names the skipped samples and is the durable list of them.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from . import distributed
from .errors import UserError
from .incidents import checkpoint_before, rewrite_incidents
from .progress import counted
from .run import Run
from .settings import SpikeConfig
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .engine.learning import Engine

T = TypeVar("T")

LOSS, NORM = "train/loss", "train/grad_norm"
# The least standard deviation, as a share of the median: in a window of almost equal values any step would be a spike.
FLOORS = {LOSS: 0.02, NORM: 0.1}
RECENT = 8  # steps before an incident, in which a rising gradient norm would show
NORMAL = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True)
class Spike:
    """A step that is flagged by one criterion, and how many steps are, itself the last of them."""

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
        self.raised = 0  # consecutive accepted steps, up to the last one, at least half as far above as a spike

    def check(self, metrics: Mapping[str, float]) -> Spike | None:
        """Return what is wrong with a step, or accept it into the window and return None."""
        flagged = None
        raised = False
        for key in self.past:
            value = metrics[key]
            if not math.isfinite(value):
                return Spike(key, value, math.inf, self.raised + 1)
            threshold, halfway = self.limits(key)
            if value > threshold and flagged is None:
                flagged = Spike(key, value, threshold, self.raised + 1)
            raised |= value > halfway
        # A flagged step stays out of the window: it will be undone, and it would raise the threshold for its like.
        if flagged is None:
            for key, past in self.past.items():
                past.append(metrics[key])
            self.raised = self.raised + 1 if raised else 0
        return flagged

    def limits(self, key: str) -> tuple[float, float]:
        """Return the threshold of a spike and that of its start; both are infinite while too few steps are known."""
        past = self.past[key]
        if len(past) < self.min_steps:
            return math.inf, math.inf
        middle, sigma = spread(past, FLOORS[key])
        return middle + self.sigmas[key] * sigma, middle + self.sigmas[key] / 2 * sigma

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
    """Return the median and a standard deviation estimated from the median absolute deviation.

    Both are deaf to a few outliers, where mean and standard deviation would follow every earlier spike.
    """
    middle = statistics.median(values)
    deviation = NORMAL * statistics.median([abs(value - middle) for value in values])
    return middle, max(deviation, floor * abs(middle))


class Batches(Protocol):
    """What is needed of batches: names for a step's samples, a list of those to skip, and what they hold."""

    skip: list[int]

    def sample_ids(self, step: int) -> list[int]:
        """Return the global numbers of a step's samples under the skip list in force."""

    def describe(self, samples: Sequence[int], tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """Return `sample`, `source` and the beginning of the `text` of each sample."""


class Guard:
    """Watches the steps of a run and rolls it back where one is a spike. All ranks call alike."""

    def __init__(self, config: SpikeConfig, batches: Batches, tokenizer: Tokenizer) -> None:
        self.config, self.batches, self.tokenizer = config, batches, tokenizer
        self.detector = Detector(config)

    def resume(self, run: Run, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint (or none) and the run's incidents say.

        UserError after too many incidents, and for samples to skip that were trained on before the checkpoint.
        """
        self.detector.load(state.get("spikes", {}))
        known, asked = set(state.get("skip", ())), set(self.batches.skip)
        if state:
            # Under the list that the checkpoint was trained with: only that tells which sample comes next.
            self.batches.skip = sorted(known)
            coming = self.batches.sample_ids(run.step)[0]
            if late := sorted(sample for sample in asked - known if sample < coming):
                raise UserError(
                    f"skip_samples: sample {late[0]} was trained on before step {run.step}, where this run resumes "
                    f"(from sample {coming}): remove it, or start from scratch with run.resume=never or another run.name"
                )
        # The file may know more than the checkpoint: an incident is recorded before the run rolls back.
        of_incidents = {entry["sample"] for incident in run.incidents for entry in incident["samples"]}
        self.batches.skip = sorted(of_incidents | asked | known)
        self._stop_after_too_many(run)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the skip list in force and the detector's window."""
        return {"skip": [int(sample) for sample in self.batches.skip], "spikes": self.detector.state()}

    def check(self, metrics: Mapping[str, float]) -> Spike | None:
        """Return what is wrong with a step's metrics, on all ranks alike: rank 0 decides."""
        if not self.config.enabled:
            return None
        spike = self.detector.check(metrics)
        # Metrics may differ between ranks in a last bit, and a rank that rolled back alone would leave the others waiting.
        if distributed.any_rank(spike is not None):
            spike = distributed.broadcast_object(spike)
        return spike

    def undo(
        self, spike: Spike, metrics: Mapping[str, float], step: int, run: Run, engines: Mapping[str, Engine]
    ) -> int:
        """Record the incident at `step` (from 0), roll back, skip its samples; return the step to continue from."""
        run.saver.wait()  # it may be the one to go back to
        first = step + 1 - spike.steps
        goal = checkpoint_before(
            run.checkpoints, first
        )  # before anything is written: without a checkpoint to go back to this refuses
        incident = _by_main(lambda: self._incident(spike, metrics, step, first, goal, run))
        run.record(incident)  # from here on a killed run rolls back when it resumes
        self._stop_after_too_many(run)
        restored, state = run.go_back(engines)
        self.resume(run, state)
        words = f"{spike.criterion} {spike.value:.4g} is " + (
            f"above {spike.threshold:.4g}" if math.isfinite(spike.value) else "not finite"
        )
        run.print(
            f"step {step + 1}: {words}. Rolled back to step {restored}; {len(incident['samples'])} samples of "
            f"{spike.steps} step{'s' if spike.steps > 1 else ''} are skipped (incidents.jsonl, "
            f"{len(run.incidents)} of {self.config.max_incidents})"
        )
        return restored

    def _incident(
        self, spike: Spike, metrics: Mapping[str, float], step: int, first: int, goal: int, run: Run
    ) -> dict[str, Any]:
        """Return the line of incidents.jsonl; steps count from 1, as in metrics.jsonl."""
        samples = [entry for at in range(first, step + 1) for entry in self._named(at + 1, self.batches.sample_ids(at))]
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
            # These lines leave metrics.jsonl: the steps are trained again. Here they stay.
            "undone": [
                {"step": row["step"], "loss": _in_json(row[LOSS]), "grad_norm": _in_json(row[NORM])}
                for row in (*run.logged_after(goal), {"step": step + 1, **metrics})
            ],
            "samples": samples,
            "ahead": None,  # until `look_ahead` has measured what follows
        }

    def _named(self, step: int, samples: Sequence[int]) -> list[dict[str, Any]]:
        return [{"step": step, **entry} for entry in self.batches.describe(samples, self.tokenizer)]

    def look_ahead(self, step: int, total_steps: int, run: Run, loss_at: Callable[[int], float]) -> bool:
        """Where the skipped range of an incident ends right before `step` (from 0), measure what follows; skip outliers.

        `loss_at` gives the loss of a step's global batch under the current weights, which here are those from before
        the incident, as is the detector's window. It is done once per incident, whose line in incidents.jsonl then
        holds what was found. False where a signal asked to stop first; a resumed run does it from the start.
        """
        if not self.config.enabled or not self.config.look_ahead:
            return True
        pending = [incident for incident in run.incidents if incident.get("ahead", {}) is None]
        return all(
            self._measure(incident, step, total_steps, run, loss_at)
            for incident in pending
            if self._stands_before(incident, step)
        )

    def _stands_before(self, incident: Mapping[str, Any], step: int) -> bool:
        """Tell whether `step` is the first to take samples from beyond the incident's."""
        last: int = incident["samples"][-1]["sample"]
        earlier = self.batches.sample_ids(step - 1)[-1] if step else -1
        return earlier < last < self.batches.sample_ids(step)[-1]

    def _measure(
        self, incident: dict[str, Any], step: int, total_steps: int, run: Run, loss_at: Callable[[int], float]
    ) -> bool:
        """Measure the batches from `step` on, skip the outliers, complete the incident; False where a signal stopped it."""
        threshold, known = self.detector.limits(LOSS)[0], self.batches.skip
        number = incident["step"] + 1  # of the next batch, had nothing been skipped
        measured, found = 0, list[tuple[int, float, list[int]]]()  # found: number, loss and samples of each outlier
        while measured < self.config.look_ahead and step < total_steps:
            if run.stop_requested():
                self.batches.skip = known  # half a measurement is not recorded, so it must not be in force either
                return False
            loss = distributed.broadcast_object(loss_at(step))
            if math.isfinite(loss) and loss <= threshold:
                step += 1
            else:
                # Not `step += 1`: with these skipped, the next samples move up into the same step.
                samples = self.batches.sample_ids(step)
                found.append((number, loss, samples))
                self.batches.skip = [*self.batches.skip, *samples]
            measured, number = measured + 1, number + 1
        named = _by_main(lambda: [entry for at, _, samples in found for entry in self._named(at, samples)])
        incident["samples"] += named
        incident["ahead"] = {
            "batches": measured,
            "offending": [{"step": at, "loss": _in_json(loss)} for at, loss, _ in found],
        }
        rewrite_incidents(run.folder, run.incidents)
        run.print(
            f"screened {measured} batches after incident {incident['incident']}: {len(found)} also flagged; "
            f"{len(named)} more samples are skipped (incidents.jsonl)"
        )
        return True

    def _stop_after_too_many(self, run: Run) -> None:
        if self.config.enabled and len(run.incidents) > self.config.max_incidents:
            raise UserError(
                f"{diagnosis(run.incidents, self.config.window)}. These are more than spikes.max_incidents="
                f"{self.config.max_incidents}: raise it to continue as before; {run.folder / 'incidents.jsonl'} has the "
                "samples with their texts"
            )


def _by_main(make: Callable[[], T]) -> T:
    """Return on all ranks what rank 0 makes; where it cannot read what it needs, all ranks raise it."""
    made, failure = None, ""
    try:
        made = make() if distributed.is_main() else None
    except (UserError, OSError) as error:
        failure = str(error)
    distributed.fail_together(failure)
    return distributed.broadcast_object(made)  # type: ignore[return-value]


def _in_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)  # JSON has no name for them


def diagnosis(incidents: Sequence[Mapping[str, Any]], window: int) -> str:
    """Return in words what a run's incidents have in common and what that suggests: the model, or the data."""
    steps = [incident["step"] for incident in incidents]
    broken = sum(incident["threshold"] is None for incident in incidents)  # no threshold: a value was not finite
    said = [
        f"{counted(len(incidents), 'incident')}, at step{'s' * (len(steps) > 1)} {', '.join(map(str, steps[:10]))}{', ...' if len(steps) > 10 else ''}: "
        f"{broken} with a loss or gradient that is not finite, {counted(len(incidents) - broken, 'spike')}"
    ]
    sources = [entry["source"] for incident in incidents for entry in incident["samples"]]
    if sources:
        most = max(sorted(set(sources)), key=sources.count)
        said.append(f"{sources.count(most)} of their {len(sources)} samples are of the source {most}")
    rising = sum(incident["norm_before"] > 1.5 for incident in incidents)
    again = sum(0 <= late["first_step"] - early["step"] < window for early, late in itertools.pairwise(incidents))
    said.append(
        f"the gradient norm rose before {rising} of them; {again} came within {window} steps of the previous one"
    )
    # Bad samples come without warning and once; an unstable model announces itself and relapses.
    if 2 * (rising + again) >= len(incidents):
        said.append("this looks like the model, not the data: lower optim.lr, or lengthen optim.warmup_steps")
    else:
        said.append("this looks like single samples: read their texts, and clean the corpus of what they share")
    return "; ".join(said)
