"""Ranks of a launcher meet in files: each gets rank 0's answer of this launch, whatever an earlier one left."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launch import ranks
from launch.ranks import Ranks, launched
from llamatrain.errors import LostRankError


def meet(folder: Path, count: int, answer: Any) -> list[Any]:
    """Return what the other ranks hear."""
    heard: list[Any] = [None] * (count - 1)

    def ask(rank: int) -> None:
        heard[rank - 1] = Ranks(rank, count).ask(folder)

    threads = [threading.Thread(target=ask, args=(rank,)) for rank in range(1, count)]
    for thread in threads[1:]:
        thread.start()
    threads[0].start()
    Ranks(0, count).tell(folder, answer)
    for thread in threads:
        thread.join()
    return heard


def test_every_rank_hears_rank_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "POLL", 0.001)
    assert meet(tmp_path / "here", 3, ["python", "-m", "sft"]) == [["python", "-m", "sft"]] * 2
    assert meet(tmp_path / "here", 3, 0) == [0, 0]  # the same folder, another launch
    (tmp_path / "here" / "ask_1").write_text("of a launch that was killed")
    assert meet(tmp_path / "here", 3, 3) == [3, 3]


def test_a_rank_that_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "TO_COME", 0.01)
    with pytest.raises(LostRankError, match=r"^rank 1, rank 2 of 3 never arrived within 0.01 s"):
        Ranks(0, 3).tell(tmp_path, 0)
    with pytest.raises(LostRankError, match=r"^rank 0 of 2 gave no sign of life for 0.01 s"):
        Ranks(1, 2).ask(tmp_path)


def test_rank_0_is_waited_for_as_long_as_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides for five times as long as it may give no sign of life."""
    for name, seconds in (("POLL", 0.01), ("BEAT", 0.02), ("TO_COME", 0.2)):
        monkeypatch.setattr(ranks, name, seconds)
    first = Ranks(0, 2)
    first.decide(tmp_path)
    heard: list[Any] = []
    other = threading.Thread(target=lambda: heard.append(Ranks(1, 2).ask(tmp_path)))
    other.start()
    time.sleep(1)
    first.tell(tmp_path, 3)
    other.join()
    assert heard == [3]


def test_ranks_are_those_of_torchrun_or_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert launched() is None  # a step of one program: srun without an address
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert launched() == Ranks(2, 4)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched() == Ranks(1, 2)
