"""Kinds of rows: their types and what the documentation says of them are one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamatrain.data.kinds import FIELDS, KINDS
from llamatrain.text_files import read_text


@pytest.mark.parametrize("kind", KINDS)
def test_the_documentation_lists_the_fields_of_every_kind(kind: str, repository: Path) -> None:
    line = re.search(rf"^\| {kind} \| (.*) \|$", read_text(repository / "docs" / "data.md"), re.M)
    assert line is not None
    words = {"last", "all", "helpfulness", "safety"} if kind in ("dialogue", "preference") else set()
    told = [set(re.findall(r"`(\w+)`", part)) - words for part in line[1].partition("optional")[::2]]
    for required, names in zip((True, False), told, strict=True):
        assert names == {name for name, field in FIELDS[KINDS[kind]].items() if field.required is required}
