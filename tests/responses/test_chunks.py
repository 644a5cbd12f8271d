"""Chunks: whatever interrupts the work, the rows are the same and nothing is made twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import pytest

from llamatrain import distributed
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.progress import Progress
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.run import Run
from rlhf.config import SampleConfig


@pytest.fixture
def run(tmp_path: Path) -> Run:
    quiet = [f"run.dir={tmp_path}", "run.name=r", "run.progress=false", "run.wandb.mode=disabled"]
    cfg = compose("sample", SampleConfig, [*quiet, "checkpoint=c", "prompts=[p]"])
    return Run(cfg.run, "sample", cfg)


class Numbered(TypedDict):
    item: int


def chunks_of(run: Run, key: dict[str, Any], count: int, size: int) -> Chunks[Numbered]:
    return Chunks(run, key, count, size, Numbered)


def rows_of(items: range) -> list[Numbered]:
    return [{"item": item} for item in items]


def test_rows_come_in_order(run: Run) -> None:
    chunks = chunks_of(run, {}, count=10, size=3)
    assert (len(chunks), chunks.missing()) == (4, 10)
    chunks.make(rows_of)
    assert [row["item"] for row in chunks.rows()] == list(range(10))
    assert chunks.missing() == 0


def test_the_bar_counts_all_ranks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rank 0 of two, whose other rank makes chunks of the same size; rank 0's second is there already.
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    others = iter([6, 3, 3])  # items that rank 1 has to make, in all and of each round
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda value: value + next(others))
    monkeypatch.setattr(distributed, "barrier", lambda: None)
    monkeypatch.setattr(run, "stop_requested", lambda: False)
    chunks = chunks_of(run, {}, count=12, size=3)
    write_rows(chunks.path(2), rows_of(chunks.items(2)))
    chunks = chunks_of(run, {}, count=12, size=3)
    shown = []
    with Progress(2 * chunks.missing(), "sampling", "responses", show=False) as bar:

        def two_a_item(items: range) -> list[Numbered]:
            for _ in range(2 * len(items)):
                bar.update(1)
                shown.append(bar.done)
            return rows_of(items)

        chunks.make(two_a_item, bar, units=2)
        assert bar.done == bar.total == 2 * (6 + 3)
    assert shown == [2, 4, 6, 8, 10, 12]


def test_finished_chunks_are_kept_and_a_half_written_one_is_made_again(run: Run) -> None:
    made: list[range] = []

    def breaks(items: range) -> list[Numbered]:
        if items.start == 6:
            raise KeyboardInterrupt
        made.append(items)
        return rows_of(items)

    with pytest.raises(KeyboardInterrupt):
        chunks_of(run, {}, count=10, size=3).make(breaks)
    chunks = chunks_of(run, {}, count=10, size=3)
    chunks.path(2).with_name(f".{chunks.path(2).name}.tmp").write_text('{"item": ')
    assert chunks.missing() == 4
    chunks.make(lambda items: made.append(items) or rows_of(items))  # type: ignore[func-returns-value]
    assert made == [range(3), range(3, 6), range(6, 9), range(9, 10)]
    assert [row["item"] for row in chunks.rows()] == list(range(10))
    assert all(path.suffix == ".jsonl" for path in chunks.folder.iterdir())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "it has 0 of 3 rows"),
        (b'{"item": 3}\n{"item": 4}\n', "it has 2 of 3 rows"),
        (b'{"item": 3}\n{"item": 4}\n{"it', "not JSON"),
        (b'{"item": 3}\n' * 4, "it has 4 of 3 rows"),
        (b'{"item": 3}\n{"item": 4}\n\0\0\0\0\n', "not JSON"),
        (b'{"item": 3}\n{"item": 4}\n[5]\n', "need an object"),
        (b'{"item": 3}\n{"item": 4}\n{"id": 5}\n', "item is missing"),
        (b'{"item": 3}\n{"item": 4}\n{"item": "\xff"}\n', "not UTF-8"),
    ],
)
def test_a_chunk_that_is_not_whole_is_made_again_and_said(
    run: Run, capsys: pytest.CaptureFixture[str], content: bytes, fault: str
) -> None:
    chunks = chunks_of(run, {}, count=10, size=3)
    chunks.make(rows_of)
    chunks.path(1).write_bytes(content)
    capsys.readouterr()
    again, made = chunks_of(run, {}, count=10, size=3), list[range]()
    said = capsys.readouterr().err
    assert again.missing() == 3
    assert said.count("\n") == 1 and str(chunks.path(1)) in said and said.endswith("; it is regenerated\n")
    assert "is damaged: " in said and fault in said
    again.make(lambda items: made.append(items) or rows_of(items))  # type: ignore[func-returns-value]
    assert made == [range(3, 6)] and [row["item"] for row in again.rows()] == list(range(10))


def test_an_item_has_as_many_rows_as_are_asked_for(run: Run) -> None:
    def twice(items: range) -> list[Numbered]:
        return [row for item in items for row in ({"item": item}, {"item": item})]

    Chunks(run, {}, 10, 3, Numbered, item_rows=2).make(twice)
    assert Chunks(run, {}, 10, 3, Numbered, item_rows=2).missing() == 0
    assert Chunks(run, {}, 10, 3, Numbered, item_rows=3).missing() == 10


def test_other_settings_and_files_of_the_users_are_left_alone(run: Run) -> None:
    first = chunks_of(run, {"temperature": 1.0}, count=4, size=2)
    first.make(rows_of)
    notes = run.folder / "chunks" / "notes.txt"
    notes.write_text("mine")
    second = chunks_of(run, {"temperature": 0.5}, count=4, size=2)
    assert second.missing() == 4
    assert chunks_of(run, {"temperature": 1.0}, count=4, size=2).missing() == 0
    assert notes.read_text() == "mine"


def test_never_resuming_makes_all_again(run: Run) -> None:
    with run:
        chunks_of(run, {}, count=4, size=2).make(rows_of)
    again = Run(replace(run.config, resume="never"), "sample", {})
    assert chunks_of(again, {}, count=4, size=2).missing() == 4


def test_a_signal_stops_between_two_chunks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = chunks_of(run, {}, count=10, size=3)
    monkeypatch.setattr(run, "stop_requested", lambda: True)
    assert not chunks.make(rows_of)
    assert chunks.missing() == 7


def test_a_model_made_elsewhere_is_told_by_its_files_and_not_by_its_path(tmp_path: Path) -> None:
    def key(name: str, weights: str) -> dict[str, Any]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(weights)
        return chunk_key({"checkpoint": folder}, [])

    assert key("here", "one") == key("there", "one") != key("elsewhere", "two")


def test_a_signal_drops_the_chunk_that_is_being_made(run: Run) -> None:
    def interrupted(items: range) -> list[Numbered]:
        if items.start == 3:
            run._stop_request.signal = "SIGTERM"
        run.interrupt()
        return rows_of(items)

    chunks = chunks_of(run, {}, count=10, size=3)
    assert not chunks.make(interrupted)
    assert chunks.missing() == 7
    assert [path.name for path in chunks.folder.iterdir()] == ["000000.jsonl"]


def test_a_round_of_chunks_made_together_is_made_by_all_ranks_or_none(run: Run) -> None:
    def together() -> Chunks[Numbered]:
        return Chunks(run, {}, 4, 2, Numbered, together=True)

    together().make(rows_of)
    assert together().missing() == 0
    together().path(1).unlink()
    assert together().missing() == 2  # of one rank each chunk is a round of its own
    assert together().make(rows_of) and together().gathered() == rows_of(range(4))
