"""The course of a PPO run: what checkpoints keep beside the models, how it resumes, rolls back, saves and stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer

from .experience import Models
from .guards import Found, Guards
from .kept import forget
from .kl import Coefficient
from .ppo_config import PPOConfig
from .samples_log import SamplesLog


class Course:
    """The weight of the KL penalty, the guards and the kept samples of a run. All ranks call alike."""

    def __init__(self, cfg: PPOConfig, run: Run, models: Models, tokenizer: Tokenizer) -> None:
        self.cfg, self.run, self.tokenizer = cfg, run, tokenizer
        self.engines = {"policy": models.policy, "critic": models.critic}
        self.kl, self.guards = Coefficient(cfg), Guards(cfg, run.print)

    def resume(self) -> int:
        """Restore the newest checkpoint, if there is one; return the iterations that are done."""
        iteration, state = self.run.resume(self.engines)
        self._load(iteration, state)
        if self.guards.rolls_back and not state:
            self.save(0)  # so that there is always something to roll back to
        return iteration

    def _load(self, iteration: int, state: Mapping[str, Any]) -> None:
        self.kl.load(state)
        self.guards.load(state)
        self.guards.slow_down(self.guards.rollbacks(self.run), self.engines)
        self.samples = SamplesLog(self.run, iteration, self.cfg.samples_every, self.cfg.samples_kept, self.tokenizer)
        forget(self.run, but=iteration)

    def save(self, step: int) -> None:
        """Save a checkpoint."""
        self.run.save(step, self.engines, self.tokenizer, {**self.kl.state(), **self.guards.state()})

    def save_or_stop(self, step: int, best: bool) -> None:
        """Save where the best is reached, a checkpoint is due, or a signal asked to stop, and then stop, unless this was the last iteration."""
        run = self.run
        run.saver.check()
        stop, last = run.stop_requested(), step == self.cfg.iterations or run.best.exhausted()
        if stop or best or last or run.config.saves_after(step):
            self.save(step)
        if stop and not last:
            run.stop(step)

    def leave_if_asked(self, iteration: int) -> None:
        """End the run where a signal asks to, in an iteration that has changed no weight yet; all ranks together."""
        if self.run.stop_requested():
            if self.run.saved < iteration:
                self.save(iteration)
            self.run.stop(iteration)

    def answer(self, found: Found, metrics: Mapping[str, float], step: int) -> int:
        """Roll back what a guard flagged after iteration `step` and return where to go on, or end the run (UserError)."""
        iteration, state = self.guards.answer(found, metrics, step, self.run, self.engines)
        self._load(iteration, state)
        return iteration
