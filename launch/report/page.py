"""The report: one self-contained HTML page about a pipeline, made from nothing but its run folders.

A section appears where its files are there; a page of a pipeline that is still under way is simply shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from html import escape
from pathlib import Path

from llamatrain import atomic
from llamatrain.progress import duration
from llamatrain.text_files import read_text

from ..runs import warn
from ..story import Story
from . import overview, sections
from .learned_from import learned_from
from .results import results
from .samples import samples
from .scores import scores

LATEST = datetime(3000, 1, 1).timestamp()  # a later time is no time
SECTIONS = (
    ("run", "The run", overview.overview),
    ("examples", "Three prompts", overview.examples),
    ("results", "Results", results),
    ("learned", "What was learned from", learned_from),
    ("learning", "Learning curves", sections.learning),
    ("reward", "Reward models", sections.reward_models),
    ("ppo", "Reinforcement learning", sections.reinforcement),
    ("scores", "Scores", scores),
    ("samples", "Samples side by side", samples),
    ("cost", "Time and cost", sections.cost),
    ("lineage", "Lineage", sections.lineage),
)


def page(story: Story) -> str:
    """Return the page's HTML."""
    made = [(anchor, title, _section(title, make, story)) for anchor, title, make in SECTIONS]
    shown = [(anchor, title, body) for anchor, title, body in made if body]
    links = " ".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    bodies = "".join(f'<section id="{anchor}"><h2>{title}</h2>{body}</section>' for anchor, title, body in shown)
    style = read_text(Path(__file__).with_name("report.css"))
    name = escape(story.name)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name} · llamatrain</title><style>\n{style}</style></head>\n<body>"
        f'<a class="skip" href="#{shown[0][0] if shown else "end"}">Skip to the content</a><main id="top">'
        f'<header><div class="kicker">llamatrain report</div><h1>{name}</h1><p>{_subtitle(story)}</p><nav>{links}</nav></header>'
        f'{bodies}<footer id="end"><a href="#top">Back to the top</a> · Made by <code>llamatrain report</code> from the run folders in '
        f"<code>{escape(str(story.folder))}</code>.</footer></main></body></html>\n"
    )


def _section(title: str, make: Callable[[Story], str], story: Story) -> str:
    """Return a section; where the files behind it hold what no program writes, a page without it is better than none."""
    try:
        return make(story)
    except Exception as error:
        text = (
            f"the section '{title}' cannot be made from what lies in {story.folder} ({type(error).__name__}: {error})"
        )
        warn(text)
        return f'<p class="lead">{escape(text)}</p>'


def _subtitle(story: Story) -> str:
    ended = max((stage.status.get("updated", 0.0) for stage in story.stages), default=0.0)
    done = sum(stage.status.get("state") == "done" for stage in story.stages)
    total = len(story.description.get("stages") or story.stages)
    parts = [f"{done} of {total} stages done" if done < total else f"{total} stages"]
    parts += [duration(sum(stage.seconds for stage in story.stages))]
    parts += [f"preset {escape(str(story.description['preset']))}"] if "preset" in story.description else []
    parts += [datetime.fromtimestamp(ended).strftime("%-d %B %Y, %H:%M")] if 0 < ended < LATEST else []
    return " · ".join(parts)


def write(folder: Path, samples: int = 5) -> Path:
    """Write report.html into a pipeline's folder and return its path."""
    target = folder / "report.html"
    atomic.write_bytes(
        target, page(Story(folder, samples)).encode(errors="replace")
    )  # JSON may hold half a surrogate pair
    return target
