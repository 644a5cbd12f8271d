"""Replaced results are listed, and removed only when asked; nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from launch import clean
from llamatrain.data import cache
from llamatrain.replaced import bytes_of, move_beside, move_content_beside, size

Capture = pytest.CaptureFixture[str]


def run_folder(path: Path) -> Path:
    """Make what a run leaves."""
    (path / "checkpoints/step_1").mkdir(parents=True)
    (path / "checkpoints/step_1/model").write_bytes(b"x" * 5000)
    (path / "status.json").write_text(json.dumps({"state": "done", "seconds": 90}))
    return path


def cleaned(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        clean.main(arguments)
    return int(end.value.code or 0)


def test_lists_by_default_and_removes_when_asked(tmp_path: Path, capsys: Capture) -> None:
    kept = run_folder(tmp_path / "it's/ppo")
    first = move_beside(run_folder(tmp_path / "it's/sft"), "0123456789ab")
    second = move_beside(run_folder(tmp_path / "it's/sft"), "0123456789ab")
    assert [first.name, second.name] == ["sft.replaced-0123456789ab", "sft.replaced-0123456789ab-2"]
    foreign = tmp_path / "it's/notes.replaced-x"
    foreign.mkdir()
    assert cleaned(str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert output.count("5 kB, took") == 2
    assert "10 kB in total; remove=true deletes" in output
    assert cleaned(str(second), "remove=true") == 0
    assert first.exists()
    assert not second.exists()
    assert cleaned(str(tmp_path), "remove=true") == 0
    assert sorted(tmp_path.glob("*/*")) == [foreign, kept]
    capsys.readouterr()
    assert cleaned(str(tmp_path)) == 0
    assert "no replaced results" in capsys.readouterr().out


def test_tokenized_data_are_listed_and_removed_unless_in_use(tmp_path: Path, capsys: Capture) -> None:
    cached = cache.Cache(tmp_path / "demo" / cache.PLACE)
    foreign = tmp_path / "demo" / cache.PLACE / "somebody's"
    foreign.mkdir(parents=True)

    def build() -> cache.Blocks:
        yield {"ids": np.zeros(3000, np.uint32)}
        return {}

    used = cached.table({"source": "a.jsonl"}, build)
    free = cached.table({"source": "b.jsonl"}, build).key
    assert cleaned(str(tmp_path)) == 0
    output = capsys.readouterr().out
    assert "12 kB, tokens of a.jsonl, last used 0 s ago" in output
    assert "24 kB in total; remove=true deletes" in output
    assert cleaned(str(tmp_path), "remove=true") == 0
    output = capsys.readouterr().out
    assert "in use, or without locks to tell; stays: " in output
    assert "12 kB freed" in output
    assert sorted(path.name for path in cached.folder.iterdir()) == sorted([used.key, foreign.name])
    assert not (cached.folder / free).exists()
    place = cached.folder / used.key
    del used
    assert cleaned(str(place), "remove=true") == 0
    assert not place.exists()


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: Capture) -> None:
    assert cleaned(str(tmp_path / "absent")) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_content_that_is_named_moves(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a")
    (folder / "lock").touch()
    moved = move_content_beside(folder, ["checkpoints", "status.json", "absent"])
    assert [path.name for path in folder.iterdir()] == ["lock"]
    assert bytes_of(moved) > 5000


def test_sizes() -> None:
    assert [size(n) for n in (12, 5_000, 28_400_000, 3.21e12)] == ["12 bytes", "5 kB", "28 MB", "3,210.0 GB"]
