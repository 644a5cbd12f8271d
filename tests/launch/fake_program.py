"""A program without torch or Hydra that behaves like one: writes out.txt and status.json, fails or stops when told to."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType


def main() -> int:
    """Return the exit code."""
    values: dict[str, str] = {}
    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        values[key] = value.strip("'")
    folder = Path(values["run.dir"]) / values["run.name"]
    received: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, hear)

    def status(state: str) -> None:
        (folder / "status.json").write_text(json.dumps({"state": state}))

    with (folder / "started.txt").open("a") as log:
        log.write(" ".join(sys.argv[1:]) + "\n")
    status("running")
    if "wait" in values:
        deadline = time.monotonic() + float(values["wait"])
        while time.monotonic() < deadline and not received:
            time.sleep(0.01)
        time.sleep(0.2)  # a signal sent twice would be heard twice
        (folder / "signals.txt").write_text(" ".join(map(str, received)))
        if received:
            status("stopped")
            return 75
    fail = folder.parent / f"fail_{values['run.name']}"
    if fail.exists():
        status("failed")
        return int(fail.read_text())
    inputs = [value for key, value in values.items() if key == "input" and value != "null"]
    (folder / "out.txt").write_text(values.get("text", "") + "".join(Path(path).read_text() for path in inputs))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": 0, "eval/loss": 1.5}) + "\n")
    status("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
