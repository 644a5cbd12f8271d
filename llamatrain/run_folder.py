"""A run's folder: locked while the run is at work in it, with its configuration, its status, and what it held before.

Rank 0 opens, reads and writes it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from . import atomic, distributed, kernels, lock, manifest
from .config.renamed import older
from .environment import environment, peak_memory
from .errors import UserError
from .lock import Lock
from .power import read_power
from .replaced import bytes_of, move_content_beside, size
from .resuming import refuse_replacement
from .run_files import BEATS, HANGS, INCIDENTS, METRICS, STATUS, Status
from .settings import RunConfig
from .text_files import DamagedFileError, read_json
from .yaml_files import read_yaml

OWN = ("checkpoints", "chunks", "final", "best", HANGS, METRICS, INCIDENTS, STATUS, "wandb")


class RunFolder:
    """The folder of one program's run."""

    def __init__(self, config: RunConfig, program: str, say: Callable[[str], None]) -> None:
        self.config, self.program, self._say = config, program, say
        self.path = Path(config.dir) / config.name
        self.checkpoints = self.path / "checkpoints"
        self.wandb_id = uuid.uuid4().hex[:8]
        self.total: int | None = None  # steps, where the program has any
        self.restarts, self.repeated = 0, 0  # starts after the first, and steps that were taken again after them
        self._opened, self._before = time.time(), 0.0  # seconds that earlier attempts took
        self.measured: dict[str, float] = {}  # of this attempt's checkpoints
        self._made_from: dict[str, str | None] = {}
        self._environment: dict[str, Any] = {}
        self._lock: Lock | None = None

    def open(
        self,
        settings: Mapping[str, Any],
        schema: type,
        made_from: Mapping[str, str | None],
        free: Sequence[str],
        refuse_resume: Callable[[Path], None],
    ) -> None:
        """Lock the folder and make it ready for a run of these settings; UserError where that may not be.

        `refuse_resume` looks at the newest checkpoint, before anything is written.
        """
        if self.config.resume == "required" and not manifest.published(self.checkpoints):
            raise UserError(f"run.resume=required, but {self.checkpoints} holds no checkpoint")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run.dir={self.config.dir}: cannot make {self.path} ({error.strerror})") from None
        self._lock = Lock(self.path)  # what else lies there is read, written and moved only from here on
        owner = self.status().get("program", self.program)
        if owner != self.program:
            raise UserError(f"run.name={self.config.name}: {self.path} is a run of {owner}; choose another run.name")
        if self.config.resume == "never" and any((self.path / name).exists() for name in OWN):
            self._start_over()
        self._refuse_older()
        for link, leads in ((self.path / "final", "last"), (self.path / "best", "best")):
            if link.exists() and not link.is_symlink():
                raise UserError(
                    f"{link} is where the run puts the link to its {leads} checkpoint: move the existing file away"
                )
        # Everything that can refuse comes before the first file is written.
        saved, old = manifest.published(self.checkpoints), self.status()
        if old.get("state") == "done" and not saved:
            refuse_replacement(self.path, old, schema, settings, made_from, free)
        if saved:
            refuse_resume(saved[-1])
        self._before = (
            float(old.get("seconds", 0.0)) if saved else 0.0
        )  # work without a checkpoint is lost, as is its time
        if "state" in old and old["state"] not in ("done", "waiting"):
            self.restarts, self.repeated = old.get("restarts", 0) + 1, old.get("repeated", 0)
        self._made_from, self._environment = dict(made_from), environment()
        self.wandb_id = old.get("wandb_id", self.wandb_id)
        # A resumed run keeps the libraries it began with: another one rounds otherwise.
        kernels.choose(self.config.kernels, old.get("kernels", {}) if saved else {})
        # Who starts from this file goes on with the run: that it was begun anew is no setting of it.
        kept = {**settings, "run": {**settings["run"], "resume": "auto"}} if "run" in settings else settings
        atomic.write_text(self.path / "config.yaml", yaml.safe_dump(kept, sort_keys=False))
        self.write_status("running", 0)

    def _refuse_older(self) -> None:
        """Refuse to go on in the folder of a run whose keys, and so whose rows, had other names."""
        try:
            before = read_yaml(self.path / "config.yaml")
        except (OSError, UserError):  # what cannot be read is looked at where it is needed
            return
        found = older(self.program, before) if isinstance(before, dict) else ""
        if found:
            raise UserError(
                f"{self.path} was made by an earlier version ({found}): choose another run.name, or start from scratch with "
                f"run.resume=never; nothing was touched"
            )

    def _start_over(self) -> None:
        """Move what the folder held beside it."""
        stays = (lock.NAME, "stage.json", BEATS)
        other_runs = {path.parent.name for path in self.path.glob(f"*/{STATUS}")}
        names = [path.name for path in self.path.iterdir() if path.name not in (*stays, *other_runs)]
        moved = move_content_beside(self.path, names)
        self._say(f"what {self.path} held ({size(bytes_of(moved))}) is kept in {moved}")

    def held(self) -> bool:
        """Tell whether the folder is still this run's."""
        return self._lock is None or self._lock.held()

    def close(self) -> None:
        """Let others use the folder."""
        if self._lock is not None:
            self._lock.release()

    def status(self) -> Status:
        """Return status.json as it lies in the folder; nothing where there is none or, with a warning, a damaged one."""
        try:
            return read_json(self.path / STATUS, Status)
        except FileNotFoundError:
            return {}
        except DamagedFileError as error:  # nothing depends on it: the checkpoints say where the run stands
            self._say(f"warning: {error}; it is rewritten")
            return {}

    def fail(self, reason: str) -> None:
        """Note on any rank why the run ends, where rank 0 may not be able to."""
        atomic.write_json(
            self.path / STATUS, {**self.status(), "state": "failed", "reason": reason, "updated": time.time()}
        )

    def write_status(self, state: str, step: int, reason: str = "") -> None:
        """Write status.json."""
        taken = read_power(self.path)
        content = {
            "state": state,
            "program": self.program,
            "step": step,
            **({} if self.total is None else {"total": self.total}),
            "reason": reason,
            "started": self._opened,
            "updated": time.time(),
            "seconds": round(self._before + time.time() - self._opened, 2),
            "restarts": self.restarts,
            "repeated": self.repeated,
            "ranks": distributed.world_size(),
            "wandb_id": self.wandb_id,
            "made_from": self._made_from,
            "environment": self._environment,
            "kernels": kernels.used(),
            "measured": {**self.measured, "memory_bytes": peak_memory()},
            **({} if taken is None else {"power": {**asdict(taken), "watts": round(taken.watts, 2)}}),
        }
        atomic.write_json(self.path / STATUS, content)
