"""incidents.jsonl: what went wrong in a run, loss spikes (`llamatrain.spikes`) and what PPO's guards flag, in the order it was
found; and which checkpoints it leaves to go back to.

Rank 0 reads and writes; every rank holds them all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import atomic, distributed, manifest
from .errors import UserError
from .run_files import INCIDENTS, Incident
from .text_files import read_lines


def read_incidents(folder: Path) -> list[dict[str, Any]]:
    """Return what a run's folder says of its incidents; a last line that a kill cut short is dropped, on the disk too."""
    path = folder / INCIDENTS
    if not path.is_file():
        return []
    mend = "it says what was rolled back and skipped: repair it, or start from scratch with another run.name"
    found = [{**incident} for incident in read_lines(path, Incident, mend, grows=True)]
    if not path.read_bytes().endswith(b"\n"):  # cut short by a kill: the run finds the incident again
        atomic.write_text(path, "".join(f"{json.dumps(incident)}\n" for incident in found))
    return found


def add_incident(folder: Path, incident: dict[str, Any]) -> None:
    """Add a line, on the disk before this returns. Called by all ranks together."""
    _write(folder / INCIDENTS, json.dumps(incident) + "\n", replace=False)


def rewrite_incidents(folder: Path, incidents: list[dict[str, Any]]) -> None:
    """Rewrite all lines: a kill leaves the old ones or the new ones. Called by all ranks together."""
    _write(folder / INCIDENTS, "".join(json.dumps(incident) + "\n" for incident in incidents), replace=True)


def checkpoint_before(checkpoints: Path, step: int) -> int:
    """Return the step of the newest checkpoint that was saved after `step` steps at most; UserError without one.

    Called by all ranks together.
    """
    # Rank 0's list counts: on a shared disk the others may see an older one.
    steps = distributed.broadcast_object([manifest.step_of(path) for path in manifest.published(checkpoints)])
    good = max((saved for saved in steps if saved <= step), default=None)
    if good is None:
        raise UserError(
            f"it starts at step {step + 1}, and no checkpoint in {checkpoints} is older: "
            "raise run.keep or run.save_every to keep older ones"
        )
    return good


def drop_stale(checkpoints: Path, incidents: Sequence[dict[str, Any]]) -> None:
    """Delete the checkpoints that hold a step of an incident and were saved before it was known. Called by all ranks."""
    from . import checkpoint

    if not incidents:
        return
    if distributed.is_main():
        for path in manifest.published(checkpoints):
            # Saved after an incident was recorded, a checkpoint is from the other side of the rollback: it stays.
            unknown = incidents[checkpoint.lineage(path).get("incidents", 0) :]
            if any(manifest.step_of(path) >= incident["first_step"] for incident in unknown):
                manifest.delete(path)
    distributed.barrier()


def _write(path: Path, text: str, replace: bool) -> None:
    failure = ""
    if distributed.is_main():
        try:
            if replace:
                atomic.write_text(path, text)
            else:  # on the disk at once: the rollback that follows relies on it, also after a kill
                with path.open("a") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            failure = f"cannot write {path}: {error.strerror}"
    distributed.fail_together(failure)
