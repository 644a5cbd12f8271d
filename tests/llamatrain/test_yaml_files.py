"""A YAML file is what it should be, or one line that names the file, the line and what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.errors import UserError
from llamatrain.yaml_files import read_yaml


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1\n", ":2: not YAML: "),
        (b"a: 1\na: 2\n", ":2: not YAML: duplicate key 'a'"),
        (b"[a]: 1\n", ":1: not YAML: "),
        (b"\xff", " is damaged: not UTF-8"),
        (b"\x00", ": not YAML: "),
        (b"[" * 500, ": not YAML: "),
        (b"a: !!python/name:os.system\n", ":1: not YAML: "),
        (b"a: 2026-99-99\n", ": not YAML: "),
        (b"a: &x\n  b: [*x]\n", ":2: not YAML: *x contains itself"),
        (b'a: ["\\ud800"]\n', ": not Unicode (it holds half a surrogate pair)"),
    ],
)
def test_mistakes_are_named_in_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}{says}") and "\n" not in str(error.value)
    path.write_bytes(b"a: &x [x=1]\nb: *x\n")
    assert read_yaml(path) == {"a": ["x=1"], "b": ["x=1"]}
