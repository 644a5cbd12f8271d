"""The best checkpoint of a run by what is measured on held-out data, and when to stop for want of a better one.

`add` hears each measurement: of a loss less is better, of scores more. Scores come with those of each prompt: better is then what
is above the best beyond the noise of the prompts, so of checkpoints that cannot be told apart the earliest is the best (of PPO
the one nearest to its start), and scores that creep on do not put off the end. Checkpoints keep what it knows, so that a resumed
or rolled-back run goes on from there. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import atomic, distributed, manifest
from .settings import RunConfig
from .statistics import mean_interval
from .text_files import read_json

NOTHING: dict[str, Any] = {"step": 0, "value": 0.0, "since": 0, "scores": [], "by": ""}


@dataclass
class Best:
    """The best measurement so far; `folder` is the run's, whose link `best` leads to its checkpoint."""

    config: RunConfig
    folder: Path
    say: Callable[[str], None] = field(compare=False)
    step: int = 0  # after which it was measured; 0: none was
    value: float = 0.0
    since: int = 0  # measurements after it, none of them better
    scores: list[float] = field(default_factory=list)  # of each prompt, where `value` is their mean
    by: str = ""  # which prompts, and what scored them

    @property
    def asked(self) -> bool:
        """Tell whether the run keeps its best checkpoint."""
        return self.config.keep_best or self.config.patience is not None

    def add(self, step: int, value: float, scores: Sequence[float] = (), by: str = "") -> bool:
        """Note what was measured after `step`; tell whether it is the best so far, which is then to be saved at once.

        Without `scores` the value is a loss; with them, one for each prompt, it is their mean; `by` says which
        prompts they are and what scored them.
        """
        if not self.asked:
            return False
        if not math.isfinite(value) or (self.step and not self._better(value, scores, by)):
            self.since += 1
            return False
        self.step, self.value, self.since, self.scores, self.by = step, value, 0, list(scores), by
        return True

    def _better(self, value: float, scores: Sequence[float], by: str) -> bool:
        """Tell whether a loss is lower, or scores are higher by more than the 95 % interval of the paired differences."""
        if not scores:
            return value < self.value
        if not self.scores:  # the best one is of a version that kept none
            return value > self.value
        if by != self.by:  # a resumed run's prompts or reward models were changed: nothing compares with it
            self.say(
                f"the best so far ({self.value:.4f}, after step {self.step:,}) was measured otherwise than this one ({value:.4f}), "
                "which takes its place"
            )
            return True
        low = mean_interval([ours - best for ours, best in zip(scores, self.scores, strict=True)]).low
        return value > self.value if low is None else low > 0  # a single prompt has no interval

    def exhausted(self) -> bool:
        """Tell whether run.patience measurements in a row were not better."""
        return self.config.patience is not None and self.since >= self.config.patience

    def stopped_early(self, step: int, total: int | None) -> str:
        """Say in words that the run ends before its last step; empty where it does not."""
        if not self.exhausted() or total is None or step >= total:
            return ""
        return (
            f"stopped early at step {step:,} of {total:,} (run.patience={self.config.patience}): {self._in_words()}; "
            "`final` is that checkpoint"
        )

    def finish(self, step: int, total: int | None) -> str:
        """Point `final` at the last checkpoint, or at the best where the run stopped early; say which is the best."""
        early = self.stopped_early(step, total)
        if distributed.is_main():
            self._point("final", self.step if early else step)
        return early or (f"{self._in_words()}; `best` is that checkpoint, `final` the last" if self.since else "")

    def _in_words(self) -> str:
        more = f"{self.since} further evaluation{'s' if self.since > 1 else ''}"
        better = "better beyond their noise" if self.scores else "better"
        return f"held-out data were best after step {self.step:,} ({self.value:.4f}) and no {better} in {more}"

    def evaluated(self) -> dict[str, float]:
        """Return what was measured of the checkpoint that `final` leads to, where a run stopped early."""
        if not self.exhausted():
            return {}
        measured: dict[str, float] = read_json(self.folder / "final" / "llamatrain.json", dict[str, Any])["evaluated"]
        return measured

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": {name: getattr(self, name) for name in NOTHING}} if self.asked else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint knows, or nothing: the beginning."""
        known = NOTHING | state.get("best", {})
        self.step, self.value, self.since, self.scores, self.by = (known[name] for name in NOTHING)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint knows. A best one that is there no more counts as never measured. All ranks call."""
        self.load(state)
        best = self._checkpoint(self.step)
        if self.step and not distributed.broadcast_object(best.is_dir()):
            self.say(f"{best}, the best so far ({self.value:.4f}), is gone: the next one measured takes its place")
            self.load({})
        if distributed.is_main():
            self._link(self.step)

    def published(self) -> None:
        """Link the best checkpoint and drop the oldest of the others, now that a new one is there (rank 0)."""
        best = 0
        if self.asked:
            # As it knows it itself, whatever was measured while it was written.
            newest = manifest.published(self.folder / "checkpoints")[-1]
            best = read_json(newest / "trainer" / "state.json", dict[str, Any]).get("best", NOTHING)["step"]
            self._link(best)
        manifest.keep_newest(self.folder / "checkpoints", self.config.keep, self._checkpoint(best) if best else None)

    def _link(self, step: int) -> None:
        if step:
            self._point("best", step)
        else:
            (self.folder / "best").unlink(missing_ok=True)

    def _point(self, name: str, step: int) -> None:
        atomic.write_link(self.folder / name, Path("checkpoints") / self._checkpoint(step).name)

    def _checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step_{step:08d}"
