"""Llama 2's own card, from the paper's figures: the same tables, and carbon to the digit (paper tables 1, 2, 3, 11, 14, 52)."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from evaluation.card.__main__ import write
from evaluation.card.config import CardConfig
from llamatrain.spent import default_rates

SIZES = """
| **7B** | a new mix of publicly available online data | 7B | 4k | no | 2.0T | 3.0e-4 |
| **13B** | a new mix of publicly available online data | 13B | 4k | no | 2.0T | 3.0e-4 |
| **34B** | a new mix of publicly available online data | 34B | 4k | yes | 2.0T | 1.5e-4 |
| **70B** | a new mix of publicly available online data | 70B | 4k | yes | 2.0T | 1.5e-4 |
"""
CARBON = """
| **7B** | 184,320 | 400 (stated) | 73.728 | 31.22 |
| **13B** | 368,640 | 400 (stated) | 147.456 | 62.44 |
| **34B** | 1,038,336 | 350 (stated) | 363.418 | 153.90 |
| **70B** | 1,720,320 | 400 (stated) | 688.128 | 291.42 |
| **total** | 3,311,616 |  | 1,272.730 | 539.00 |
"""
BENCHMARKS = """
| **7B** | 16.8 | 63.9 | 48.9 | 61.3 | 14.6 | 45.3 | 32.6 | 29.3 |
| **13B** | 24.5 | 66.9 | 55.4 | 65.8 | 28.7 | 54.8 | 39.4 | 39.1 |
| **34B** | 27.8 | 69.9 | 58.7 | 68.0 | 24.2 | 62.6 | 44.1 | 43.4 |
| **70B** | 37.5 | 71.9 | 63.6 | 69.4 | 35.2 | 68.9 | 51.2 | 54.2 |
"""
SAFETY = """
| **7B** | 33.29 | 21.25 |
| **13B** | 41.86 | 26.10 |
| **34B** | 43.45 | 21.19 |
| **70B** | 50.18 | 24.60 |
"""
CHAT = """
| **7B Chat** | 57.04 | 0.00 |
| **13B Chat** | 62.18 | 0.00 |
| **34B Chat** | 67.20 | 0.02 |
| **70B Chat** | 64.14 | 0.01 |
"""
FORM = (  # the fields of the paper's table 52
    "Model developers",
    "Variations",
    "Input",
    "Output",
    "Model architecture",
    "Model dates",
    "Status",
    "License",
    "Intended use cases",
    "Out-of-scope uses",
    "Training factors",
    "Carbon footprint",
    "Overview",
    "Data freshness",
    "Limits",
    "Contact",
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the README.md that the paper's figures make."""
    output = tmp_path_factory.mktemp("llama2")
    words = str(Path(__file__).with_name("llama2.yaml"))
    readme, _ = write(CardConfig(None, None, words, False, [], str(output), None, None, default_rates()))
    return readme.read_text()


@pytest.mark.parametrize("rows", [SIZES, CARBON, BENCHMARKS, SAFETY, CHAT])
def test_tables_are_the_papers(text: str, rows: str) -> None:
    assert rows.strip("\n") in text


def test_every_field_of_the_form_is_there_and_filled_in(text: str) -> None:
    lines = text.splitlines()
    for name in FORM:
        line = next(line for line in lines if line.startswith(f"**{name}**"))
        assert len(line) > len(name) + 5 and "Not stated" not in line, name


def test_what_was_not_measured_is_named(text: str) -> None:
    line = next(line for line in text.splitlines() if line.startswith("**Not measured by these runs**"))
    assert "`llamatrain benchmark`" in line and "measured elsewhere" in line


def test_the_hub_reads_licence_and_carbon(text: str) -> None:
    data = ModelCard(text).data
    assert data.license == "llama2" and data.language == ["en"]
    assert data["co2_eq_emissions"]["emissions"] == pytest.approx(539_000_985.6)  # in grams
