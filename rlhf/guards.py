"""Guards: an iteration of PPO that goes wrong ends the run with a diagnosis, or rolls it back to the last good checkpoint.

Each guard holds one metric of an iteration against a threshold; some are relative to the first iteration. An iteration is
flagged together with those right before it that had already come half as far: they are where it began. What was found stands
in incidents.jsonl. A rollback goes to the newest checkpoint from before that beginning, and on with lower learning rates: an
iteration is a function of its number, the weights and the rates, so at the same rates it would come again.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llamatrain import distributed
from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.incidents import checkpoint_before
from llamatrain.run import Run

from .ppo_config import ROLLBACK, GuardsConfig, PPOConfig

MISMATCH = {"float32": 1e-3, "bfloat16": 0.05}  # nats that rounding explains, with much to spare
ENTROPY, LENGTH, FINISHED = "ppo/entropy", "ppo/response_length", "ppo/finished"  # of which the first iteration's count


@dataclass(frozen=True)
class Guard:
    """One metric and its limits: `limit` flags, `halfway` is where it begins; above them, or below (`falls`)."""

    name: str  # of the key in `guards`
    metric: str
    limit: float
    halfway: float
    hint: str
    falls: bool = False

    def beyond(self, value: float, limit: float) -> bool:
        """Tell whether a value is on the wrong side of a limit."""
        return value < limit if self.falls else value > limit


@dataclass(frozen=True)
class Found:
    """What a guard flagged: `steps` iterations, the last of them the one that was checked."""

    guard: str
    metric: str
    value: float
    threshold: float | None
    hint: str
    steps: int

    def __str__(self) -> str:
        told = f"{self.metric} is {self.value:.4g}"
        if self.threshold is None:
            return f"{told}: {self.hint}"
        return f"{told}, beyond {self.threshold:.4g} (guards.{self.guard}): {self.hint}"


def guards_of(cfg: PPOConfig, first: Mapping[str, float]) -> list[Guard]:
    """Return the guards that are on; `first` are the first iteration's values of what they are relative to."""
    own: GuardsConfig = cfg.guards
    mismatch = own.sampler_mismatch or MISMATCH[cfg.zero.dtype]
    entropy, length, finished = first[ENTROPY], first[LENGTH], first[FINISHED]
    fraction, growth, rise = own.entropy_fraction, own.length_growth, own.unfinished_rise
    lower = "lower optim.lr, or raise kl_coef"
    absolute = [
        ("kl_per_token", "ppo/kl_per_token", own.kl_per_token, f"the policy runs away from its reference: {lower}"),
        ("ratio", "ppo/approx_kl", own.ratio, "single updates move the policy too far: lower optim.lr, or epochs"),
        ("value_loss", "ppo/value_loss", own.value_loss, "the critic diverges: lower critic_optim.lr, or raise critic_warmup"),
        (
            "sampler_mismatch",
            "ppo/sampler_mismatch_mean",
            mismatch,
            "the model that samples is not the one that is trained, by its weights, temperature or precision: compare them",
        ),
    ]  # fmt: skip
    found = [Guard(name, at, limit, limit / 2, hint) for name, at, limit, hint in absolute if limit is not None]
    if fraction is not None:
        hint = f"the policy gives ever the same answers: {lower}"
        found.append(Guard("entropy_fraction", ENTROPY, fraction * entropy, (1 + fraction) / 2 * entropy, hint, True))
    if growth is not None:
        hint = "longer responses score higher whatever they say: read samples.jsonl, and check the reward models for it"
        found.append(Guard("length_growth", LENGTH, growth * length, (1 + growth) / 2 * length, hint))
    if rise is not None:
        hint = f"responses no longer come to an end: {lower}, or gate.unfinished_logit further down"
        found.append(Guard("unfinished_rise", FINISHED, finished - rise, finished - rise / 2, hint, True))
    return found


def idle(cfg: PPOConfig, first: Mapping[str, float]) -> Iterator[str]:
    """Yield a line for each guard whose limit, relative to the first iteration, is as far as its metric can go or further."""
    furthest = {LENGTH: float(cfg.sampling.max_new_tokens), FINISHED: 0.0}
    for guard in guards_of(cfg, first):
        end = furthest.get(guard.metric)
        if end is not None and not guard.beyond(end, guard.limit):
            yield (
                f"guards.{guard.name}={getattr(cfg.guards, guard.name):g} has no effect: its limit, by the first iteration, is "
                f"{guard.limit:.4g}, and {guard.metric} is never {'below' if guard.falls else 'above'} {end:g}"
            )


class Guards:
    """Watches the iterations of a run. All ranks call alike. `say` hears, once, which guards watch in vain."""

    def __init__(self, cfg: PPOConfig, say: Callable[[str], None]) -> None:
        self.cfg, self.say = cfg, say
        self.first: dict[str, float] = {}  # the first iteration's values
        self.raised: dict[str, int] = {}  # by guard: iterations up to the last one that came half as far

    def check(self, metrics: Mapping[str, float]) -> Found | None:
        """Return what is wrong with an iteration, on all ranks alike: rank 0 decides."""
        return distributed.broadcast_object(self._check(metrics))

    def _check(self, metrics: Mapping[str, float]) -> Found | None:
        broken = sorted(key for key, value in metrics.items() if not math.isfinite(value))
        if broken:
            hint = "lower optim.lr or critic_optim.lr"
            return Found("finite", broken[0], metrics[broken[0]], None, hint, 1 + max(self.raised.values(), default=0))
        if not self.first:
            self.first = {name: metrics[name] for name in (ENTROPY, LENGTH, FINISHED)}
            for line in idle(self.cfg, self.first):
                self.say(line)
        flagged = None
        for guard in guards_of(self.cfg, self.first):
            value = metrics.get(guard.metric)
            if value is None:  # of updates that the policy does not have while it waits for its critic
                continue
            before = self.raised.get(guard.name, 0)
            if guard.beyond(value, guard.limit) and flagged is None:
                flagged = Found(guard.name, guard.metric, value, guard.limit, guard.hint, before + 1)
            self.raised[guard.name] = before + 1 if guard.beyond(value, guard.halfway) else 0
        return flagged

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"guards": {"first": self.first, "raised": self.raised}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take a checkpoint's state, or none: the beginning."""
        known = state.get("guards", {})
        self.first, self.raised = dict(known.get("first", {})), dict(known.get("raised", {}))

    # --- what becomes of the run ---

    @property
    def rolls_back(self) -> bool:
        """Tell whether a flagged run is rolled back."""
        return self.cfg.guards.action == ROLLBACK

    def rollbacks(self, run: Run) -> int:
        """Return how many rollbacks the run has had, as incidents.jsonl says."""
        return sum(bool(incident.get("rolled_back")) for incident in run.incidents)

    def slow_down(self, rollbacks: int, engines: Mapping[str, Engine]) -> None:
        """Lower the learning rates for each rollback."""
        factor = self.cfg.guards.rollback_lr**rollbacks
        for name, optim in (("policy", self.cfg.optim), ("critic", self.cfg.critic_optim)):
            engines[name].optim = dataclasses.replace(optim, lr=optim.lr * factor)

    def answer(
        self, found: Found, metrics: Mapping[str, float], step: int, run: Run, engines: Mapping[str, Engine]
    ) -> tuple[int, dict[str, Any]]:
        """Record what was found after iteration `step`, and roll back: return the iteration to go on from, and its state.

        UserError where the run is to stop, was rolled back too often, or has no checkpoint that is old enough.
        """
        run.saver.wait()  # it may be the one to go back to
        back = self.rollbacks(run)
        again = self.rolls_back and back < self.cfg.guards.max_rollbacks
        first, goal, lacking = step, run.saved, ""  # a run that stops keeps all checkpoints
        if again:
            try:
                goal = checkpoint_before(run.checkpoints, step - found.steps)
                first = step - found.steps + 1
            except UserError as error:  # on all ranks alike
                again, lacking = False, str(error)
        if not again:
            run.log(step, {key: value for key, value in metrics.items() if math.isfinite(value)})
        run.record(incident_of(found, step, first, goal, again, run))
        if not again:
            raise UserError(_ending(found, step, run, self.cfg, back, lacking))
        restored, state = run.go_back(engines)
        run.print(
            f"iteration {step}: {found}. Rolled back to iteration {restored}, learning rates times "
            f"{self.cfg.guards.rollback_lr:g} (incidents.jsonl, {back + 1} of {self.cfg.guards.max_rollbacks})"
        )
        return restored, state


def incident_of(found: Found, step: int, first: int, goal: int, rolled_back: bool, run: Run) -> dict[str, Any]:
    """Return the line of incidents.jsonl."""
    return {
        "incident": len(run.incidents) + 1,
        "time": round(time.time(), 3),
        "step": step,
        "first_step": first,
        "back_to": goal,
        "guard": found.guard,
        "criterion": found.metric,
        "value": found.value if math.isfinite(found.value) else str(found.value),
        "threshold": found.threshold,
        "try": found.hint,
        "rolled_back": rolled_back,
    }


def _ending(found: Found, step: int, run: Run, cfg: PPOConfig, back: int, lacking: str) -> str:
    """Return in a line what ended the run and how it can go on; `lacking`: why a rollback had nowhere to go."""
    if lacking:
        return f"iteration {step}: {found}; nothing to roll back to: {lacking}"
    kept = (
        f"the last checkpoint in {run.checkpoints} is from before it"
        if run.saved
        else "no checkpoint was saved before it"
    )
    told = f"iteration {step}: {found}; {kept}"
    if back:
        return f"{told} (rolled back {back} times, guards.max_rollbacks={cfg.guards.max_rollbacks})"
    return f"{told}; guards.action=rollback goes back to the last good one and on with lower learning rates"
