"""The program as its users have it: a server process that can be killed, and people with a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
LAUNCH = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}


class Server:
    """`llamatrain collect` in a process of its own."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        """Start it on a free port and wait for the invitations."""
        self.folder, self.arguments, self.port = folder, list(arguments), 0
        self.starts = 0
        self.start()

    def start(self) -> None:
        """Start it, at the second time on the port that it had: the links stay what they were."""
        self.starts += 1
        self.said = self.folder / f"said_{self.starts}.txt"
        environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        command = [sys.executable, "-m", "evaluation.people.collect", *self.arguments, f"port={self.port}"]
        with self.said.open("w") as file:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, env=environ)
        until(lambda: "Ctrl-C" in self.said.read_text() or self.process.poll() is not None)
        self.links = dict(re.findall(r"^  (\S+) +(http://\S+)$", self.said.read_text(), re.M))
        assert self.links, self.said.read_text()
        self.port = int(re.findall(r":(\d+)/", next(iter(self.links.values())))[0])

    def kill(self) -> None:
        """End it without a warning."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Server:
        """Return the server."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind."""
        self.kill()

    def end(self) -> str:
        """Wait for its own end; return what it said."""
        assert self.process.wait(120) == 0, self.said.read_text()
        return self.said.read_text()


def until(condition: object, seconds: float = 300) -> None:
    """Wait for a condition."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "that took too long"
        time.sleep(0.05)


def counted(store: Path) -> int:
    """Return how many verdicts stand in a store that another process has open."""
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as base:
        return int(base.execute("SELECT count(*) FROM verdicts WHERE undone IS NULL").fetchone()[0])
