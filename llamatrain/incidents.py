"""incidents.jsonl: the loss spikes of a run that it went back from (`llamatrain.spikes`), in the order they were found.

Rank 0 reads and writes; every rank holds them all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from . import atomic, distributed
from .run_files import INCIDENTS, Incident
from .text_files import read_lines


def read_incidents(folder: Path) -> list[dict[str, Any]]:
    """Return what a run's folder says of its incidents; a last line that a kill cut short is dropped, on the disk too."""
    path = folder / INCIDENTS
    if not path.is_file():
        return []
    mend = "it lists the samples to skip: repair it, or start from scratch with another run.name"
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
