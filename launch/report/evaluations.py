"""The report's benchmarks, probes and what people say: whatever lies in the pipeline's folder, of stages or of runs by hand."""

from __future__ import annotations

from llamatrain.pages.evaluations import BENCHMARK, PROBE, RATINGS, SAFETY, below, tables
from llamatrain.runs import Row

from ..story import Story


def benchmarks(story: Story) -> Row | None:
    """Return academic and safety benchmarks and probes, a column a model."""
    return _cards(story, BENCHMARK, SAFETY, PROBE)


def people(story: Story) -> Row | None:
    """Return what raters preferred, how far they agree, and what red teams found."""
    return _cards(story, RATINGS)


def _cards(story: Story, *files: str) -> Row | None:
    cards = [card for file in files for card in tables(below(story.folder), file)]
    return {"cards": cards} if cards else None
