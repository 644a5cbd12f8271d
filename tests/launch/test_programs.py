"""Every program describes itself in its folder's config.py, which launch reads without starting anything heavy."""

from __future__ import annotations

import pytest

from evaluation.people.config import CollectConfig
from launch.programs import OWN, PROGRAMS, override, with_keys
from launch.report.learned_from import RULES
from llamatrain.config.compose import compose


def test_every_program_of_a_stage_has_its_schema() -> None:
    assert {name for name, program in PROGRAMS.items() if program.schema is None} == set(OWN) - {"measure"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_the_report_shows_of_a_program_is_there_to_show(name: str) -> None:
    program = PROGRAMS[name]
    assert {table.rows for table in program.learns_from} <= set(RULES)
    for table in program.learns_from:
        assert bool(table.key) != bool(table.file)
        assert not table.key or table.key in program.schema.__dataclass_fields__  # type: ignore[union-attr]
        assert not table.file or table.file in program.makes
    assert bool(program.model) == bool(program.trained_on)


def test_plain_arguments_get_their_keys() -> None:
    assert with_keys("stage", ["runs/a", "x=1", "it's"]) == ["pipeline='runs/a'", "x=1", r"stage='it\'s'"]
    assert with_keys("new", ["--cfg", "job", "a", "b"]) == ["--cfg", "job", "name='a'", "b"]
    assert with_keys("new", ["name=a", "b"]) == ["name=a", "b"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("runs/a b/c.jsonl", "out=runs/a b/c.jsonl"),
        ("räte/c.jsonl", "out='räte/c.jsonl'"),
        ("a(1), b/it's.jsonl", r"out='a(1), b/it\'s.jsonl'"),
        (r"a\b\'\\/c.jsonl", r"out='a\b\\\'\\/c.jsonl'"),
        (" [x].jsonl", "out=' [x].jsonl'"),
    ],
)
def test_an_override_says_any_text(text: str, shown: str) -> None:
    assert override("out", text) == shown
    assert compose("collect", CollectConfig, ["comparisons=c.jsonl", shown]).out == text
