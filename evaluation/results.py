"""What was measured of checkpoints, kept so that nothing is computed twice, whichever run asks.

    runs/results/<sha256 of the checkpoint, 16 digits>/<task>-<sha256 of the settings, 12 digits>.json

A result is known by what it was measured of (the hash of weights, configuration and tokenizer), by its task, and by
the settings that can change it: version of the harness or classifier, limits, decoding. A file appears whole, and
none is ever replaced: other settings make another one. Imports no torch.

    store = Results.of(cfg, checkpoint)
    found = store.known("toxigen", settings)   # None: not measured yet
    store.keep("toxigen", settings, found)
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypedDict

from llamatrain import atomic, distributed, manifest
from llamatrain.settings import RunConfig
from llamatrain.text_files import read_json

FOLDER = "results"


class Result(TypedDict):
    """What stands in a file of the store."""

    task: str
    checkpoint: dict[str, str]  # its path when it was measured, and its sha256
    settings: dict[str, Any]
    measured: str  # date and time, UTC
    found: dict[str, Any]


class Settings(Protocol):
    """The settings of a program that keeps results: where, if not beside the runs."""

    run: RunConfig
    results: str | None


@dataclass
class Results:
    """The results of one checkpoint, `folder` being the store of all and `checkpoint` a folder `resolve` returned."""

    folder: Path
    checkpoint: Path

    @classmethod
    def of(cls, cfg: Settings, checkpoint: Path) -> Self:
        """Return those of a checkpoint in the folder that a program's settings name."""
        return cls(Path(cfg.results or Path(cfg.run.dir) / FOLDER), checkpoint)

    @cached_property
    def sha256(self) -> str:
        """The hash of the checkpoint's weights, configuration and tokenizer."""
        return manifest.fingerprint(self.checkpoint)

    def path(self, task: str, settings: Mapping[str, Any]) -> Path:
        """Return the file of a task under these settings (JSON values)."""
        key = hashlib.sha256(_canonical(settings).encode()).hexdigest()
        return self.folder / self.sha256[:16] / f"{task}-{key[:12]}.json"

    def known(self, task: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what was found, on all ranks what rank 0 reads; None where it was not measured yet."""
        path = self.path(task, settings) if distributed.is_main() else None
        found = read_json(path, Result, "delete it to measure again")["found"] if path and path.is_file() else None
        return distributed.broadcast_object(found)

    def keep(self, task: str, settings: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Write what was found (rank 0)."""
        if not distributed.is_main():
            return
        path = self.path(task, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        result: Result = {
            "task": task,
            "checkpoint": {"path": str(self.checkpoint), "sha256": self.sha256},
            "settings": json.loads(_canonical(settings)),
            "measured": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
            "found": dict(found),
        }
        atomic.write_json(path, result)


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)
