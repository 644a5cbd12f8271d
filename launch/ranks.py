"""The ranks of a launcher (torchrun, srun) before their program starts: rank 0 decides, the others wait for its answer.

They meet in files of the pipeline's folder, which all of them see, since no port is theirs yet. A rank asks with a
token of its own, rank 0 answers with that token, and the rank deletes its question: so what an earlier launch left is
ignored. Nobody watches yet (`llamatrain.watch`): a rank that does not come is missed after TO_COME, and rank 0 shows that it
lives while it decides.
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamatrain import atomic
from llamatrain.errors import LostRankError

# Seconds: between two looks, for a rank to come or to show that it lives, and between rank 0's signs of life.
POLL, TO_COME, BEAT = 0.1, 600.0, 15.0
SIGN = "deciding"
TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID")


@dataclass(frozen=True)
class Ranks:
    """The place of this process among the ranks that a launcher started."""

    rank: int
    count: int
    _decided: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    def decide(self, folder: Path) -> None:
        """Show that rank 0 lives, from now on until it tells what it has decided: it may hash files for hours."""
        launch = uuid.uuid4().hex

        def show() -> None:
            beats = 0
            while not self._decided.wait(BEAT if beats else 0):
                beats += 1
                with suppress(OSError):  # a disk out of reach
                    folder.mkdir(parents=True, exist_ok=True)
                    atomic.write_text(folder / SIGN, f"{launch} {beats}")

        threading.Thread(target=show, name="deciding", daemon=True).start()

    def tell(self, folder: Path, answer: Any, stopped: Callable[[], bool] = lambda: False) -> None:
        """Give all other ranks rank 0's answer; LostRankError where one does not come. Ends early where `stopped` says so."""
        self._decided.set()
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
                absent = ", ".join(f"rank {rank}" for rank in sorted(waiting))
                raise LostRankError(
                    f"{absent} of {self.count} never arrived within {TO_COME:g} s: it sleeps, or died before"
                )
            if waiting:
                time.sleep(POLL)

    def ask(self, folder: Path) -> Any:
        """Wait for rank 0's answer and return it; LostRankError where rank 0 shows no life."""
        folder.mkdir(parents=True, exist_ok=True)
        word, question = uuid.uuid4().hex, folder / f"ask_{self.rank}"
        atomic.write_text(question, word)
        seen, quiet = _read(folder / SIGN), 0.0  # while this rank is awake: a suspended job sleeps as a whole
        while quiet < TO_COME:
            said = _read(folder / f"answer_{self.rank}")
            if said is not None and (content := json.loads(said))["word"] == word:
                question.unlink()
                return content["answer"]
            time.sleep(POLL)
            sign = _read(folder / SIGN)
            seen, quiet = sign, quiet + POLL if sign == seen else 0.0
        raise LostRankError(
            f"rank 0 of {self.count} gave no sign of life for {TO_COME:g} s: it sleeps, or never arrived"
        )


def launched() -> Ranks | None:
    """Return this process's rank where a launcher started it, as the programs read it; None otherwise."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        return Ranks(int(env["RANK"]), int(env["WORLD_SIZE"]))
    if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR"} <= env.keys():
        return Ranks(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]))
    return None


def apart(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which a process is none of a launcher's ranks: it would wait for the others."""
    return {name: value for name, value in environ.items() if name not in TOLD}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
