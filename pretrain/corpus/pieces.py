"""Pieces: some thousand documents of one source on disk, which every step after reading goes over one by one.

text            the documents' UTF-8 one after the other
ends.npy        int64: where each begins in it, and the end of the last
rows.npy        int32: which row of its part each was
hosts.npy       int32: which of the `hosts` each comes from, -1 for none; absent where no document has a url
piece.json      hosts, and the counts of what reading did
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain import text_files

DAMAGED = "delete the run's work/ and run the same command again"
BATCH_BYTES = 1 << 20  # of text in memory at a time

Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Piece:
    """A piece that lies in `folder`; its documents are number `first` and on of all."""

    folder: Path
    source: int
    held_out: bool
    first: int
    documents: int

    def ends(self) -> Numbers:
        """Return where each document begins in the text, and the end of the last, mapped into memory."""
        loaded: Numbers = np.load(self.folder / "ends.npy", mmap_mode="r")
        return loaded

    def array(self, name: str) -> NDArray[Any]:
        """Return one of the piece's arrays."""
        loaded: NDArray[Any] = np.load(self.folder / f"{name}.npy")
        return loaded

    def has(self, name: str) -> bool:
        """Tell whether the piece has an array."""
        return (self.folder / f"{name}.npy").is_file()

    @property
    def facts(self) -> dict[str, Any]:
        """What reading said of the piece."""
        return read_json(self.folder / "piece.json")

    def texts(self, chosen: Numbers) -> list[str]:
        """Return the texts of documents by their number in the piece, rising."""
        found: list[str] = []
        ends = self.ends()
        with (self.folder / "text").open("rb") as file:
            for begin, end in zip(ends[chosen].tolist(), ends[chosen + 1].tolist(), strict=True):
                file.seek(begin)
                found.append(file.read(end - begin).decode())
        return found

    def batches(self, chosen: Mask | None = None) -> Iterator[tuple[Numbers, list[str]]]:
        """Yield the documents (those `chosen`) in batches: their numbers in the piece, and their texts."""
        ends = self.ends()
        with (self.folder / "text").open("rb") as file:
            begin = 0
            while begin < self.documents:  # a block of whole documents at a time, one at least
                end = int(np.searchsorted(ends, ends[begin] + BATCH_BYTES, side="right")) - 1
                end = min(max(end, begin + 1), self.documents)
                block = file.read(int(ends[end] - ends[begin]))  # also what is not chosen: one read beats many seeks
                numbers = np.arange(begin, end)
                if chosen is not None:
                    numbers = numbers[chosen[begin:end]]
                starts = (ends[numbers] - ends[begin]).tolist()
                stops = (ends[numbers + 1] - ends[begin]).tolist()
                if len(numbers):
                    yield numbers, [block[a:b].decode() for a, b in zip(starts, stops, strict=True)]
                begin = end


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file of the work holds."""
    return text_files.read_json(path, dict[str, Any], DAMAGED)


class PieceWriter:
    """Writes a piece, document by document."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.file = folder, (folder / "text").open("wb")
        self.bytes = 0
        self.ends: list[int] = [0]
        self.rows: list[int] = []
        self.numbers: list[int] = []
        self.hosts: dict[str, int] = {}

    def add(self, text: str, row: int, host: str | None) -> None:
        """Add a document."""
        self.bytes += self.file.write(text.encode())
        self.ends.append(self.bytes)
        self.rows.append(row)
        self.numbers.append(-1 if host is None else self.hosts.setdefault(host, len(self.hosts)))

    def close(self, counts: Counter[str], **facts: Any) -> None:
        """Finish the files."""
        self.file.close()
        np.save(self.folder / "ends.npy", np.array(self.ends, dtype=np.int64))
        np.save(self.folder / "rows.npy", np.array(self.rows, dtype=np.int32))
        if self.hosts:
            np.save(self.folder / "hosts.npy", np.array(self.numbers, dtype=np.int32))
        content = {"documents": len(self.rows), "hosts": list(self.hosts), "counts": dict(counts), **facts}
        (self.folder / "piece.json").write_text(json.dumps(content))


def numbered(folders: Sequence[Path], owners: Sequence[tuple[int, bool]]) -> list[Piece]:
    """Return the pieces in the tasks' folders, in order; `owners` tells each task's source and whether it is held out."""
    pieces: list[Piece] = []
    first = 0
    for folder, (source, held_out) in zip(folders, owners, strict=True):
        for path in sorted(p for p in folder.iterdir() if p.is_dir()):
            count = read_json(path / "piece.json")["documents"]
            pieces.append(Piece(path, source, held_out, first, count))
            first += count
    return pieces
