"""Holds the glossary against the code: every key, metric and file that it names is there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from launch.programs import FOLDERS, PROGRAMS
from llamatrain.config.meanings import meanings
from llamatrain.text_files import read_text

ROOT = Path(__file__).parents[2]
PLACES = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\|.*\| (.*) \|$", read_text(ROOT / "docs/glossary.md"), re.M)))
FILE = re.compile(r"[\w.]+\.jsonl?")


@cache
def texts() -> str:
    """Return the source of the library and the stages."""
    return "\n".join(read_text(path) for folder in ("llamatrain", *FOLDERS) for path in (ROOT / folder).rglob("*.py"))


@cache
def metrics() -> re.Pattern[str]:
    """Return what a metric may be called: the texts in the source that look like one, with anything in their braces."""
    found = set(re.findall(r'"([a-z]+/[\w{}/]+)', texts()))
    return re.compile(
        "|".join("".join(r"\w+" if p[0] == "{" else p for p in re.findall(r"\{\w+\}|[^{}]+", one)) for one in found)
    )


@cache
def shared() -> set[str]:
    """Return the keys of config groups, which several programs have."""
    keys = [key for program in PROGRAMS for key in meanings(program) if "." in key]
    return {key for key in keys if keys.count(key) > 1}


def test_it_names_places() -> None:
    assert len(PLACES) > 80


@pytest.mark.parametrize("place", sorted(set(PLACES)))
def test_what_it_names_exists(place: str) -> None:
    program, colon, key = place.partition(": ")
    if colon:
        assert key in meanings(program), place
    elif FILE.fullmatch(place):
        makes = {name for one in PROGRAMS.values() for name in one.makes}
        assert place in makes or f'"{place}"' in texts()
    elif "/" in place:
        assert metrics().fullmatch(place), place
    else:
        assert place in shared(), place


def test_words_stand_once() -> None:
    words = re.findall(r"^\| ([^|]+) \|", read_text(ROOT / "docs/glossary.md"), re.M)
    listed = [one for word in words for one in word.split(", ") if word not in ("term",) and set(word) != {"-"}]
    assert len(listed) == len(set(listed)) > 50
