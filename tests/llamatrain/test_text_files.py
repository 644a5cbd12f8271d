"""What is read from disk is what it should be, or one line that names the file, the key, what was found and the need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pytest

from llamatrain.text_files import DamagedFileError, read_json, read_lines, read_text


class Part(TypedDict):
    size: int


class Row(TypedDict):
    id: str
    score: NotRequired[float]


class Whole(TypedDict, total=False):
    name: str | None
    parts: dict[str, Part]
    shares: list[float]


@dataclass
class Made:
    name: str
    parts: list[Part]
    done: bool = False


def file(folder: Path, content: bytes) -> Path:
    path = folder / "x.json"
    path.write_bytes(content)
    return path


def test_types_are_made(tmp_path: Path) -> None:
    path = file(tmp_path, b'{"name": null, "parts": {"a": {"size": 1, "more": 2}}, "shares": [1, 0.5], "other": 3}')
    assert read_json(path, dict[str, Any])["other"] == 3
    whole = read_json(path, Whole)
    assert whole == {"name": None, "parts": {"a": {"size": 1, "more": 2}}, "shares": [1.0, 0.5], "other": 3}
    assert isinstance(whole["shares"][0], float)
    assert read_json(file(tmp_path, b'{"id": "x"}'), Row) == {"id": "x"}
    assert read_json(file(tmp_path, b'{"name": "x", "parts": []}'), Made) == Made("x", [])
    assert read_json(file(tmp_path, b'{"name": "x", "parts": [{"size": 1}], "new": 1}'), Made).parts == [{"size": 1}]


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"", Whole, "not JSON ("),
        (b'{"name": ', Whole, "not JSON ("),
        (b'{"name": "\xff"}', Whole, "not UTF-8 (invalid start byte at byte 10)"),
        (b"[" * 100_000, Whole, "not JSON ("),
        (b'{"name": ' + b"9" * 5000 + b"}", Whole, "not JSON ("),
        (b'{"name": "\\uD800"}', Whole, "not Unicode (it holds half a surrogate pair)"),
        (b"null", Whole, "it is None, need an object"),
        (b"[1]", Whole, "it is [1], need an object"),
        (b'{"name": 3}', Whole, "name is 3, need a text"),
        (b'{"parts": []}', Whole, "parts is [], need an object"),
        (b'{"parts": {"a": 7}}', Whole, "parts.a is 7, need an object"),
        (b'{"parts": {"a": {}}}', Whole, "parts.a.size is missing"),
        (b'{"parts": {"a": {"size": true}}}', Whole, "parts.a.size is True, need a whole number"),
        (b'{"parts": {"a": {"size": 1.5}}}', Whole, "parts.a.size is 1.5, need a whole number"),
        (b'{"shares": [0, "1"]}', Whole, "shares.1 is '1', need a number"),
        (b'{"shares": [1' + b"0" * 400 + b"]}", Whole, "shares.0 has 401 digits, need a number"),
        (b'{"name": "x"}', Made, "parts is missing"),
        (b'{"name": "x", "parts": [], "done": 1}', Made, "done is 1, need true or false"),
    ],
)
def test_a_damaged_file_is_told_in_a_line(content: bytes, kind: Any, says: str, tmp_path: Path) -> None:
    path = file(tmp_path, content)
    with pytest.raises(DamagedFileError) as error:
        read_json(path, kind, "delete it")
    text = str(error.value)
    assert text.startswith(f"{path} is damaged: {says}") and text.endswith("; delete it")
    assert "\n" not in text and len(text) < len(str(path)) + 200


def test_what_is_not_there_or_cannot_be_read_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        read_json(tmp_path, Whole)


def test_lines(tmp_path: Path) -> None:
    path = file(tmp_path, '{"size": 1, "text": "\u2028"}\n[2]\n\n{"size": "3"}\n{"size": 4}\n{"si'.encode())
    with pytest.raises(DamagedFileError, match=r"x\.json:2 is damaged: it is \[2\], need an object; look at it"):
        list(read_lines(path, Part, "look at it"))
    bad: list[DamagedFileError] = []
    assert [row["size"] for row in read_lines(path, Part, bad=bad.append, grows=True)] == [1, 4]
    assert [str(error).removeprefix(str(path))[:2] for error in bad] == [":2", ":3", ":4"]
    list(read_lines(path, Part, bad=bad.append))
    assert ":6 is damaged: not JSON" in str(bad[-1])  # the last was cut short
    assert list(read_lines(file(tmp_path, b'{"size": 1}\n{"size": 2}'), Part)) == [{"size": 1}, {"size": 2}]
