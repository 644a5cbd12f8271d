"""A program without torch or Hydra that behaves like one: writes out.txt and status.json, fails or stops when told to.

It starts as a pipeline starts its stages: `--config=FILE`, its whole configuration, and `--dry-run=RANKS`, its plan.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from llamatrain.errors import UserError
from llamatrain.keys import KEEPS, SPEED, reads


@dataclass
class FakeRun:
    """What a run has."""

    name: str = field(metadata=KEEPS)
    dir: str = field(metadata=KEEPS)
    seed: int
    save_every: int = field(metadata=KEEPS)
    resume: str = field(metadata=KEEPS)
    wandb: dict[str, Any] = field(metadata=KEEPS)


@dataclass
class FakeConfig:
    """The fake program's schema."""

    run: FakeRun
    text: str
    number: int
    input: str | None = field(metadata=reads("file"))
    micro_batch_size: int = field(metadata=SPEED)
    wait: float
    seed: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise UserError(f"number={self.number}: need 0 or more")


def main() -> int:
    """Return the exit code."""
    argument, *dry_run = sys.argv[1:]
    values: dict[str, Any] = yaml.safe_load(Path(argument.removeprefix("--config=")).read_text())
    if dry_run:
        print("what would be done")
        # As a rank of a launcher it would wait for the others, which are not asked.
        return 2 if values["text"] == "too much" or "RANK" in os.environ else 0
    folder = Path(values["run"]["dir"]) / values["run"]["name"]
    received: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, hear)
    if values["text"] == "deaf":  # as a program before its first line
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def status(state: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            (folder / "status.json").write_text(json.dumps({"state": state}))

    with (folder / "started.txt").open("a") as log:
        log.write(json.dumps(values) + "\n")
    status("running")
    if values["text"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if values["wait"] and not (folder / "signals.txt").exists():  # once is enough
        deadline = time.monotonic() + float(values["wait"])
        while time.monotonic() < deadline and not received:
            time.sleep(0.01)
        time.sleep(0.2)  # a signal sent twice would be heard twice
        (folder / "signals.txt").write_text(" ".join(map(str, received)))
        if received:
            status("stopped")
            return 75
    fail = folder.parent / f"fail_{folder.name}"
    if fail.exists():
        status("failed")
        return int(fail.read_text())
    read = Path(values["input"]).read_text() if values["input"] is not None else ""
    (folder / "out.txt").write_text(values["text"] + read)
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": 0, "eval/loss": 1.5}) + "\n")
    status("done")
    if values["text"] == "abort":
        os.abort()
    return 0


if __name__ == "__main__":
    sys.exit(main())
