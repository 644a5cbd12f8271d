"""Files of rows: every format, whole and in parts; what is broken is named by its place."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from llamatrain.data.hub import Version
from llamatrain.data.kinds import DocumentRow
from llamatrain.data.rows import Part, count_part, count_rows, place, read_part, read_rows, split, stamp
from llamatrain.errors import UserError

ROWS = [{"text": f"{'word ' * (i % 7)}é{i}", "source": "s"} for i in range(60)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=9)


def write_frames(path: Path) -> None:
    packed = zstandard.ZstdCompressor()
    path.write_bytes(packed.compress(LINES[:500]) + packed.compress(LINES[500:]))


def damaged(write: Callable[[Path], object], suffix: str, begin: int) -> bytes:
    """Return a file's content with some bytes in its middle altered."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        write(path)
        content = path.read_bytes()
    return content[:begin] + b"\xff" * 40 + content[begin + 40 :]


FORMATS: dict[str, Callable[[Path], object]] = {
    ".jsonl": lambda path: path.write_bytes(LINES),
    ".jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    ".jsonl.zst": write_frames,
    ".parquet": write_parquet,
    ".txt": lambda path: path.write_text("\n\n \n".join(row["text"] + "\nand\u00a0more" for row in ROWS)),
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("size", [1, 100, 700, 10**6])
def test_parts_are_the_whole(suffix: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    FORMATS[suffix](path)
    name = f"paragraphs:{path}" if suffix == ".txt" else str(path)
    whole = [row["text"] for row in read_rows(name, DocumentRow)]
    expected = [row["text"] + "\nand\u00a0more" * (suffix == ".txt") for row in ROWS]
    assert whole == expected
    parts = split(name, size)
    assert [row["text"] for part in parts for _, row in read_part(part, DocumentRow)] == whole
    assert count_rows(name) == 60
    if suffix in (".jsonl", ".parquet"):
        assert (len(parts) > 5) == (size < 700)
        before, numbers = 0, []
        for part in parts:
            numbers += [before + number for number, _ in read_part(part, DocumentRow)]
            before += count_part(part)
        assert numbers == list(range(1, 61))
        assert place(parts[-1]) == f"{path}{', row ' if suffix == '.parquet' else ':'}"
    if "." in suffix[1:]:
        assert len(parts) == 1


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\n\nTwo.\n")
    assert list(read_rows(tmp_path / "a.txt", DocumentRow)) == [
        {"text": "One.\n\nTwo.", "source": str(tmp_path / "a.txt")}
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(LINES)[:-20], r"a\.jsonl\.gz:\d+: truncated or damaged gzip file"),
        ("a.jsonl.zst", zstandard.compress(LINES)[:-9], r"a\.jsonl\.zst:\d+: truncated or damaged Zstandard file"),
        ("a.jsonl.zst", b"no such thing", r"a\.jsonl\.zst:1: truncated or damaged Zstandard file"),
        ("a.parquet", b"PAR1", r"a\.parquet is not a Parquet file"),
        ("a.txt", b"\xff\xfe\xfa", r"a\.txt:1: not UTF-8"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", r"a\.jsonl:1: not JSON \(Exceeds the limit"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON"),
        (
            "a.jsonl.gz",
            damaged(FORMATS[".jsonl.gz"], ".jsonl.gz", 20),
            r"a\.jsonl\.gz:1: truncated or damaged gzip file \(Error -3",
        ),
        ("a.parquet", damaged(write_parquet, ".parquet", 8), r"a\.parquet, row 1: truncated or damaged Parquet file"),
    ],
)
def test_broken_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_rows(tmp_path / name, DocumentRow))
    if name.endswith(("gz", "zst")):
        with pytest.raises(UserError, match=r"a\.jsonl\.(gz|zst): truncated or damaged"):
            count_rows(tmp_path / name)


def test_a_bad_row_is_named_by_its_line_in_the_file_or_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES + b'{"text": 3, "source": "s"}\n\n{"text": "fine"}\n')
    parts = split(str(path), 500)
    with pytest.raises(UserError, match=r"a\.jsonl:61: field 'text' of the document: found 3, need a text"):
        [list(read_part(part, DocumentRow)) for part in parts]
    bad: list[str] = []
    rows = [
        row for part in parts for _, row in read_part(part, DocumentRow, lambda e: bad.append(str(e)), source="given")
    ]
    assert len(rows) == 61
    assert rows[-1] == {"text": "fine", "source": "given"}
    assert [message.split(": ")[0].rpartition("/")[2] for message in bad] == ["a.jsonl:61", "a.jsonl:62"]


def test_a_hub_data_set_is_streamed_by_its_shards(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"part{number}.jsonl").write_bytes(LINES[: LINES.index(b"\n") + 1] * (number + 1))
    parts = split(f"hf:{tmp_path}", 1)
    assert parts == [Part(f"hf:{tmp_path}", number, number + 1) for number in range(3)]
    assert sorted(len(list(read_part(part, DocumentRow))) for part in parts) == [1, 2, 3]


def test_a_hub_data_set_has_configurations_fields_and_a_stamp(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"content": "the {name}"}}\n')
    listed = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in "ab")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    whole = Part(f"hf:{tmp_path}", text="content", version=Version("b"))
    [part] = split(whole, 1)
    assert [row["text"] for _, row in read_part(part, DocumentRow, source="s")] == ["the b"]
    with pytest.raises(UserError, match=r"shard 0, row 1: there is no field 'body', only 'content'"):
        list(read_part(replace(part, text="body"), DocumentRow, source="s"))
    before = stamp(whole)
    os.utime(tmp_path / "a.jsonl", (0, 0))
    assert stamp(whole) == before != stamp(replace(whole, version=Version("a")))
    os.utime(tmp_path / "b.jsonl", (0, 0))
    assert stamp(whole) != before
    with pytest.raises(UserError, match="revision=v1: a local folder has no revisions, need null"):
        stamp(replace(whole, version=Version(revision="v1")))
