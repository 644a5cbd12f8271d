"""Holds every row of docs/recipe.md against the composed configurations and the constants in the code."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.slurm.config import SlurmConfig
from llamatrain.config.compose import compose, compose_dict
from llamatrain.config.presets import config_folder, load_preset, preset_overrides

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"
HEADER = ["what", "paper", "section", "where", "key", "default", "note"]


@dataclass
class Row:
    """One line of a table: the value of `key` in a program (with overrides) or, with colons, in a module."""

    line: int
    what: str
    paper: str
    section: str
    where: str
    key: str
    default: str
    note: str

    def actual(self) -> Any:
        if ":" in self.where:  # `code: reward.losses`, a constant of a module
            return eval(self.key, vars(importlib.import_module(self.where.split(":")[1].strip())))
        program, *overrides = self.where.split()
        node: Any = composed(program, *overrides)
        for part in self.key.split("."):
            node = node[part]
        return node


@cache
def composed(program: str, *overrides: str) -> dict[str, Any]:
    return compose_dict(program, overrides)


def rows() -> list[Row]:
    """Return the rows of all tables that have the recipe's header."""
    found: list[Row] = []
    inside = False
    for number, line in enumerate(PAGE.read_text().splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells == HEADER:
            inside = True
        elif inside and not set(line) <= set("|-: "):
            assert len(cells) == len(HEADER), f"{PAGE.name}:{number}: {len(cells)} cells, need {len(HEADER)}"
            found.append(Row(number, *(cell.strip("`") for cell in cells)))
    return found


def value(text: str) -> Any:
    """Return what a cell of the column `default` says: YAML, with 1e-5 and 1,024 read as numbers."""
    number = text.replace(",", "") if re.fullmatch(r"[\d,]+", text) else text
    parsed = yaml.safe_load(number)
    try:
        return float(parsed) if isinstance(parsed, str) else parsed
    except ValueError:
        return parsed


ROWS = rows()


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 80


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.where} {row.key}")
def test_row(row: Row) -> None:
    expected, actual = value(row.default), row.actual()
    # Fractions such as 2/3 are rounded on the page.
    numbers = expected if isinstance(expected, list) else [expected]
    rounded = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
    assert actual == (pytest.approx(expected, rel=1e-4) if rounded else expected)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.where} {row.key}")
def test_the_default_is_the_papers_number_or_called_our_choice(row: Row) -> None:
    assert row.section, "names no section"
    if re.fullmatch(r"[\d.,]+(e-?\d+)?", row.paper):
        assert value(row.paper) == pytest.approx(value(row.default))
    if row.paper == "not stated":
        assert "our choice" in row.note


@pytest.mark.parametrize("preset", sorted(path.stem for path in (config_folder() / "preset").glob("*.yaml")))
def test_a_preset_composes_with_every_program_it_names(preset: str) -> None:
    for program in load_preset(preset):
        if program == "slurm":  # whose `resources` are by names of the user's
            compose("slurm", SlurmConfig, ["program=x", *preset_overrides("slurm", preset)])
        else:
            compose_dict(program, [f"preset={preset}"])
