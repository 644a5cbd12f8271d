"""The best checkpoint of a run by what is measured on held-out data, and when to stop for want of a better one.

`add` hears each measurement: of a loss less is better, of a score more. Checkpoints keep what it knows, so that a resumed or
rolled-back run goes on from there. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import atomic, distributed, manifest
from .settings import RunConfig
from .text_files import read_json

NOTHING = {"step": 0, "value": 0.0, "since": 0}


@dataclass
class Best:
    """The best measurement so far; `folder` is the run's, whose link `best` leads to its checkpoint."""

    config: RunConfig
    folder: Path
    step: int = 0  # after which it was measured; 0: none was
    value: float = 0.0
    since: int = 0  # measurements after it, none of them better

    @property
    def asked(self) -> bool:
        """Tell whether the run keeps its best checkpoint."""
        return self.config.keep_best or self.config.patience is not None

    def add(self, step: int, value: float, more_is_better: bool = False) -> bool:
        """Note what was measured after `step`; tell whether it is the best so far, which is then to be saved at once."""
        if not self.asked:
            return False
        better = value > self.value if more_is_better else value < self.value
        if (self.step and not better) or value != value:  # a NaN is never the best
            self.since += 1
            return False
        self.step, self.value, self.since = step, value, 0
        return True

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
        return f"held-out data were best after step {self.step:,} ({self.value:.4f}) and no better in {more}"

    def evaluated(self) -> dict[str, float]:
        """Return what was measured of the checkpoint that `final` leads to, where a run stopped early."""
        if not self.exhausted():
            return {}
        measured: dict[str, float] = read_json(self.folder / "final" / "llamatrain.json", dict[str, Any])["evaluated"]
        return measured

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": {"step": self.step, "value": self.value, "since": self.since}} if self.asked else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint knows. A best one that is there no more counts as never measured. All ranks call."""
        known = state.get("best", NOTHING)
        if not distributed.broadcast_object(self._checkpoint(known["step"]).is_dir()):
            known = NOTHING
        self.step, self.value, self.since = known["step"], known["value"], known["since"]
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
