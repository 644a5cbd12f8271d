"""Files of rows: whole, or a part at a time, so that several processes may share one file.

| a name ends in | a row is | a part is |
|---|---|---|
| `.parquet` | a row | some row groups |
| `.txt` | the whole file; with `paragraphs:` before it, what stands between blank lines | a range of bytes |
| anything else | a line, a JSON object | a range of bytes |

All but Parquet may be compressed (`.gz`, `.zst`): such a file is one part.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from llamatrain.errors import UserError, show

Row = dict[str, Any]
SUFFIXES = (".json", ".jsonl", ".gz", ".zst", ".parquet", ".txt")
BLOCK = 1 << 20


class Place:
    """Where a row stands, for messages. The lines before a part are counted only when the text is asked for."""

    def __init__(self, path: str | Path, begin: int = 0, unit: str = ":") -> None:
        self.path, self.begin, self.unit, self.number = path, begin, unit, 0
        self._skipped: int | None = None

    def __str__(self) -> str:
        return f"{self.path}{self.unit}{self.number + self._before()}"

    def _before(self) -> int:
        if self._skipped is None:
            self._skipped = count_between(Path(self.path), 0, self.begin) if self.unit == ":" else self.begin
        return self._skipped


def count_between(path: Path, begin: int, end: int) -> int:
    """Return how many rows (of plain text, lines) stand in a part."""
    if path.suffix == ".parquet":
        metadata = _parquet(path).metadata
        return sum(metadata.row_group(group).num_rows for group in range(begin, end))
    count = 0
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end and (block := file.read(min(end - begin, BLOCK))):
            count += block.count(b"\n")
            begin += len(block)
    return count


def is_text(path: Path) -> bool:
    """Tell whether a file is plain text rather than rows with fields."""
    return _plain_name(path).endswith(".txt")


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".zst")


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacking what is compressed."""
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path), BLOCK)
    return path.open("rb")


class _Zstandard(io.RawIOBase):
    """The unpacked bytes of a .zst file of any number of frames; EOFError where the last one is cut."""

    def __init__(self, path: Path) -> None:
        import zstandard  # here, because few files need it

        self.error = zstandard.ZstdError
        self.make = zstandard.ZstdDecompressor().decompressobj
        self.file, self.frame, self.ready, self.begun = path.open("rb"), self.make(), b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            packed = self.frame.unused_data if self.frame.eof else b""
            packed = packed or self.file.read(BLOCK)
            if self.frame.eof:
                self.frame, self.begun = self.make(), False
            if not packed:
                if self.begun:
                    raise EOFError("the last frame is truncated")
                return 0
            self.begun = True
            try:
                self.ready = self.frame.decompress(packed)
            except self.error as error:
                raise gzip.BadGzipFile(str(error)) from error
        count = min(len(buffer), len(self.ready))
        buffer[:count], self.ready = self.ready[:count], self.ready[count:]
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def split(path: Path, part_bytes: int, paragraphs: bool = False) -> list[tuple[int, int | None]]:
    """Return the parts of a file as (begin, end): bytes at which rows begin, or row groups; None is the file's end."""
    if path.suffix == ".parquet":
        return _split_groups(path, part_bytes)
    if path.suffix in (".gz", ".zst") or (is_text(path) and not paragraphs):
        return [(0, None)]
    size = path.stat().st_size
    starts = [0]
    with path.open("rb") as file:
        while (begin := _next_start(file, starts[-1] + part_bytes, size, paragraphs)) < size:
            starts.append(begin)
    return list(zip(starts, [*starts[1:], None], strict=True))


def _next_start(file: IO[bytes], position: int, size: int, paragraphs: bool) -> int:
    """Return the first byte from `position` on at which a row begins."""
    if position >= size:
        return size
    file.seek(position - 1)  # one back: where a line begins at `position` itself, this reads the break before it
    file.readline()
    if not paragraphs:
        return file.tell()
    for line in iter(file.readline, b""):
        if not line.strip():
            return file.tell()
    return size


def _split_groups(path: Path, part_bytes: int) -> list[tuple[int, int | None]]:
    metadata = _parquet(path).metadata
    starts, held = [0], 0
    for group in range(metadata.num_row_groups):
        if held >= part_bytes:
            starts.append(group)
            held = 0
        held += metadata.row_group(group).total_byte_size
    return list(zip(starts, [*starts[1:], None], strict=True))


def _parquet(path: Path) -> Any:
    import pyarrow  # here, because few files need it
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:  # an OSError of what is damaged inside
        raise UserError(f"{path} is not a Parquet file: {error}") from error


def read(
    path: Path, begin: int = 0, end: int | None = None, paragraphs: bool = False
) -> Iterator[tuple[Place, Row | UserError]]:
    """Yield the raw rows of a part with where they stand (one object, which moves on); a bad row is its error."""
    if path.suffix == ".parquet":
        yield from _read_parquet(path, begin, end)
        return
    place = Place(path, begin)
    with _unpacking(path, place), open_bytes(path) as file:
        if begin:
            file.seek(begin)
        if is_text(path):
            yield from _read_text(file, place, end, paragraphs)
        else:
            yield from _read_lines(file, place, end)


@contextmanager
def _unpacking(path: Path, place: Place | None = None) -> Iterator[None]:
    """Turn what unpacking a damaged file raises into a UserError, which names the line where `place` does."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        if place is not None:
            place.number += 1
        kind = "gzip" if path.suffix == ".gz" else "Zstandard"
        raise UserError(f"{place or path}: truncated or damaged {kind} file ({error})") from error


def _read_lines(file: IO[bytes], place: Place, end: int | None) -> Iterator[tuple[Place, Row | UserError]]:
    left = None if end is None else end - place.begin  # bytes; a row belongs to the part in which it begins
    for line in file:
        if left is not None:
            if left <= 0:
                return
            left -= len(line)
        place.number += 1
        yield place, _parse(line, place)


def _parse(line: bytes, place: Place) -> Row | UserError:
    if not line.strip():
        return UserError(f"{place}: the line is empty, need a JSON object")
    try:
        # Bytes may be UTF-16 or begin with a mark: `json.loads` finds out, which takes as long as the rest.
        row = json.loads(line.decode() if line[:1] == b"{" else line)
    except (ValueError, RecursionError) as error:  # a ValueError also of a number with thousands of digits
        return UserError(f"{place}: not JSON ({error}); found {show(line[:60])}, need a JSON object")
    return row if isinstance(row, dict) else UserError(f"{place}: found {show(row)}, need a JSON object")


def _read_text(
    file: IO[bytes], place: Place, end: int | None, paragraphs: bool
) -> Iterator[tuple[Place, Row | UserError]]:
    if not paragraphs:
        place.number = 1
        yield place, _document(file.read(), place)
        return
    # Parts of a file begin and end between paragraphs (`split`): none is cut.
    left = None if end is None else end - place.begin
    lines: list[bytes] = []
    for number, line in enumerate(file, start=1):
        if left is not None:
            if left <= 0:
                break
            left -= len(line)
        if line.strip():
            place.number = place.number if lines else number  # a paragraph is named by its first line
            lines.append(line)
        elif lines:
            yield place, _document(b"".join(lines), place)
            lines = []
    if lines:
        yield place, _document(b"".join(lines), place)


def _document(content: bytes, place: Place) -> Row | UserError:
    try:
        return {"text": content.decode().rstrip("\r\n"), "source": str(place.path)}
    except UnicodeDecodeError as error:
        return UserError(f"{place}: not UTF-8 ({error}); need text in UTF-8")


def _read_parquet(path: Path, begin: int, end: int | None) -> Iterator[tuple[Place, Row | UserError]]:
    file = _parquet(path)
    end = file.metadata.num_row_groups if end is None else end
    place = Place(path, count_between(path, 0, begin), unit=", row ")
    batches = file.iter_batches(batch_size=256, row_groups=range(begin, end))
    while rows := _next_rows(batches, place):
        for row in rows:
            place.number += 1
            yield place, row


def _next_rows(batches: Iterator[Any], place: Place) -> list[Row]:
    import pyarrow

    try:
        rows: list[Row] = next(batches).to_pylist()
    except StopIteration:
        return []
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # a ValueError of text that is no UTF-8
        place.number += 1
        raise UserError(f"{place}: truncated or damaged Parquet file ({error})") from error
    return rows


def count(path: Path, paragraphs: bool = False) -> int:
    """Return how many raw rows a file holds, without parsing them."""
    if path.suffix == ".parquet":
        return int(_parquet(path).metadata.num_rows)
    if is_text(path):
        return sum(1 for _ in read(path, paragraphs=paragraphs))
    lines, tail = 0, b"\n"
    with _unpacking(path), open_bytes(path) as file:
        while block := file.read(BLOCK):
            lines += block.count(b"\n")
            tail = block[-1:]
    return lines + (tail != b"\n")
