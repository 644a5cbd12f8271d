"""Chunks: whatever interrupts the work, the rows are the same and nothing is made twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.config import compose
from llamatrain.run import Run
from llamatrain.stopping import Stopped
from rlhf.chunks import Chunks, Row
from rlhf.config import SampleConfig


@pytest.fixture
def run(tmp_path: Path) -> Run:
    quiet = [f"run.dir={tmp_path}", "run.name=r", "run.progress=false", "run.wandb.mode=disabled"]
    cfg = compose("sample", SampleConfig, [*quiet, "checkpoint=c", "prompts=[p]"])
    return Run(cfg.run, "sample", cfg)


def rows_of(items: range) -> list[Row]:
    return [{"item": item} for item in items]


def test_rows_come_in_order(run: Run) -> None:
    chunks = Chunks(run, {}, count=10, size=3)
    assert (len(chunks), chunks.missing()) == (4, 10)
    chunks.make(rows_of)
    assert [row["item"] for row in chunks.rows()] == list(range(10))
    assert chunks.missing() == 0


def test_finished_chunks_are_kept_and_a_half_written_one_is_made_again(run: Run) -> None:
    made: list[range] = []

    def breaks(items: range) -> list[Row]:
        if items.start == 6:
            raise KeyboardInterrupt
        made.append(items)
        return rows_of(items)

    with pytest.raises(KeyboardInterrupt):
        Chunks(run, {}, count=10, size=3).make(breaks)
    chunks = Chunks(run, {}, count=10, size=3)
    chunks.path(2).with_suffix(".tmp").write_text('{"item": ')
    assert chunks.missing() == 4
    chunks.make(lambda items: made.append(items) or rows_of(items))  # type: ignore[func-returns-value]
    assert made == [range(3), range(3, 6), range(6, 9), range(9, 10)]
    assert [row["item"] for row in chunks.rows()] == list(range(10))


def test_other_settings_start_anew(run: Run) -> None:
    first = Chunks(run, {"temperature": 1.0}, count=4, size=2)
    first.make(rows_of)
    second = Chunks(run, {"temperature": 0.5}, count=4, size=2)
    assert second.missing() == 4
    assert not first.folder.exists()


def test_never_resuming_makes_all_again(run: Run) -> None:
    Chunks(run, {}, count=4, size=2).make(rows_of)
    run.config.resume = "never"
    assert Chunks(run, {}, count=4, size=2).missing() == 4


def test_a_signal_stops_between_two_chunks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks(run, {}, count=10, size=3)
    monkeypatch.setattr(run, "stop_requested", lambda: True)
    with pytest.raises(Stopped):
        chunks.make(rows_of)
    assert chunks.missing() == 7
