"""The ranks of a launcher (torchrun, srun) before their program starts: rank 0 decides, the others wait for its answer.

They meet in files of the pipeline's folder, which all of them see, since no port is theirs yet. A rank asks with a
token of its own, rank 0 answers with that token, and the rank deletes its question: so what an earlier launch left is
ignored.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatrain import atomic
from llamatrain.errors import UserError

POLL, TO_COME = 0.1, 600.0  # seconds
TO_DECIDE = 86400.0  # rank 0 may hash files for hours; nobody watches yet, as before any run (`distributed.PATIENCE`)


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the ranks that a launcher started."""

    rank: int
    count: int

    def tell(self, folder: Path, answer: Any, stopped: Callable[[], bool] = lambda: False) -> None:
        """Give all other ranks rank 0's answer; UserError where one does not come. Ends early where `stopped` says so."""
        answered: dict[int, str] = {}
        waiting, deadline = set(range(1, self.count)), time.monotonic() + TO_COME
        while waiting and not stopped():
            for rank in sorted(waiting):
                word = _read(folder / f"ask_{rank}")
                if word is None and rank in answered:  # it has read the answer, or it would still be asking
                    waiting.remove(rank)
                elif word is not None and word != answered.get(rank):
                    folder.mkdir(parents=True, exist_ok=True)
                    atomic.write_json(folder / f"answer_{rank}", {"word": word, "answer": answer})
                    answered[rank] = word
            if time.monotonic() > deadline:
                raise UserError(f"ranks {sorted(waiting)} of {self.count} did not join within {TO_COME:g} s")
            if waiting:
                time.sleep(POLL)

    def ask(self, folder: Path) -> Any:
        """Wait for rank 0's answer and return it; UserError where none comes."""
        folder.mkdir(parents=True, exist_ok=True)
        word, question = uuid.uuid4().hex, folder / f"ask_{self.rank}"
        atomic.write_text(question, word)
        deadline = time.monotonic() + TO_DECIDE
        while time.monotonic() < deadline:
            said = _read(folder / f"answer_{self.rank}")
            if said is not None and (content := json.loads(said))["word"] == word:
                question.unlink()
                return content["answer"]
            time.sleep(POLL)
        raise UserError(f"rank {self.rank}: rank 0 did not say within {TO_DECIDE:g} s what to do")


def launched() -> Ranks | None:
    """Return this process's rank where a launcher started it, as the programs read it; None otherwise."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return Ranks(int(env["RANK"]), int(env["WORLD_SIZE"]))
    if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR"} <= env.keys():
        return Ranks(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]))
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
