"""The report: one self-contained HTML page about a pipeline, made from nothing but its run folders.

A section is a function that gathers what there is to tell and a template that says it; it appears where its files are
there, so the page of a pipeline that is still under way is simply shorter. Every text is escaped by the templates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment

from llamatrain import atomic
from llamatrain.energy import Rates
from llamatrain.pages import templates as pages
from llamatrain.runs import Row, warn

from ..story import Story
from .during import during
from .evaluations import benchmarks, people
from .experience import pages_of
from .learned_from import learned_from
from .ledger import cost, lineage
from .overview import examples, overview, stages
from .planned import planned
from .results import results
from .rewards import reward_models
from .safety_data import safety_data
from .samples import samples
from .scores import scores
from .training import courses, kept, learning


class Section(NamedTuple):
    """A part of the page: its template is named after its anchor."""

    anchor: str
    title: str
    gather: Callable[[Story], Row | None]


SECTIONS = (
    Section("run", "The run", overview),
    Section("chain", "The pipeline", stages),
    Section("examples", "Three prompts", examples),
    Section("results", "Results", results),
    Section("benchmarks", "Benchmarks and probes", benchmarks),
    Section("people", "What people say", people),
    Section("safety_data", "Safety data scaling", safety_data),
    Section("scores", "Scores and judge", scores),
    Section("learned", "What was learned from", learned_from),
    Section("learning", "Learning curves", learning),
    Section("kept", "Kept checkpoints", kept),
    Section("course", "Training in detail", courses),
    Section("during", "Answers during training", during),
    Section("reward", "Reward models", reward_models),
    Section("samples", "Samples side by side", samples),
    Section("cost", "Time and cost", cost),
    Section("planned", "Predicted and measured", planned),
    Section("lineage", "Lineage", lineage),
)


def templates() -> Environment:
    """Return where the report's templates are read from."""
    return pages.templates(Path(__file__).with_name("templates"))


def page(story: Story) -> str:
    """Return the page's HTML."""
    made = [(section, body) for section in SECTIONS if (body := _body(section, story))]
    return templates().get_template("page.html").render(story=story, sections=made)


def _body(section: Section, story: Story) -> str:
    """Return a section's HTML; where the files behind it hold what no program writes, a page without it is better than none."""
    try:
        found = section.gather(story)
        return templates().get_template(f"{section.anchor}.html").render(found) if found else ""
    except Exception as error:
        what = f"the section '{section.title}' cannot be made from {story.folder}"
        text = f"{what} ({type(error).__name__}: {error})"
        warn(text)
        return templates().get_template("failed.html").render(text=text)


def write(folder: Path, samples: int = 5, rates: Rates | None = None) -> Path:
    """Write report.html into a pipeline's folder, and beside it the pages of iterations; return its path."""
    target, story = folder / "report.html", Story(folder, samples, rates)
    atomic.write_bytes(target, page(story).encode(errors="replace"))  # JSON may hold half a surrogate pair
    known = templates()
    for path, template, shown in pages_of(story):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, known.get_template(template).render(shown).encode(errors="replace"))
    return target
