"""Holds docs/faults.md against the tests: what it names is there, and every planted fault stands in it."""

from __future__ import annotations

import re
from pathlib import Path

from llamatrain.text_files import read_text
from tests.rlhf.test_faults import PLANTED

ROOT = Path(__file__).parents[2]
PAGE = read_text(ROOT / "docs" / "faults.md")


def test_every_test_that_it_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 8
    for path, test in named:
        assert f"def {test}(" in read_text(ROOT / path), f"{path}::{test}"


def test_it_has_every_planted_fault_and_all_thirty() -> None:
    numbered = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", PAGE, re.M)
    assert [int(number) for number, _ in numbered] == list(range(1, 31))
    planted = {name for name, _, _ in PLANTED}
    said = {name for name in re.findall(r"`([^`]+)`", PAGE) if "/" not in name}
    assert said == planted
    for number, how in numbered:
        assert how.count(f"`{number} ") or "tests/" in how
