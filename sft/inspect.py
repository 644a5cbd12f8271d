"""Looks at files and data sets of any kind: counts, what is wrong, and examples with what would be trained of them in colour.

    llamatrain inspect sources=dialogues.jsonl tokenizer=runs/base/final
    llamatrain inspect sources=[hh_rlhf:Anthropic/hh-rlhf/helpful-base] test=[hh_rlhf:Anthropic/hh-rlhf/helpful-base:test]

A dialogue or an answer of which no token would be trained, or whose EOS lies outside of the loss mask, is an error: the
program ends with code 2. Nothing is changed; `page=` writes what is shown as one HTML page.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llamatrain import atomic
from llamatrain.chat import encode_dialogue
from llamatrain.config.program import main
from llamatrain.data.faults import FAULTS
from llamatrain.data.kinds import KINDS
from llamatrain.data.rows import count_rows, placed_rows, whole_source
from llamatrain.data.shapes import recognize
from llamatrain.data.skipped import BadRows, named
from llamatrain.errors import UserError
from llamatrain.progress import Progress, counted
from llamatrain.tokenizer import Tokenizer

from .config import InspectConfig
from .figures import LANGUAGES_OF, Figures, Measure
from .masks import Run, by_messages, dialogues, encoded, fault, loss_of

MANY = 10_000  # rows, from which on progress is shown
TRAINED = "bold green"  # how a target of the loss is shown in the terminal


@dataclass
class Example:
    """A row, as it would be trained: its dialogues by what they are called."""

    where: str
    dialogues: dict[str, list[Run]]


@dataclass
class Inspected:
    """A source: what it was found to hold, its figures, what was left out of it, and some rows."""

    source: str
    figures: Figures
    bad: list[str]
    examples: list[Example] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # of masks: each fault with the places of its first rows


def inspect(cfg: InspectConfig) -> None:
    """Look at the sources, and say and write what they hold."""
    tokenizer = None if cfg.tokenizer is None else Tokenizer(cfg.tokenizer)
    unit = "words" if tokenizer is None else "tokens"
    found = [inspected(source, cfg, tokenizer) for source in cfg.sources]
    tests = [inspected(source, cfg, tokenizer) for source in cfg.test]
    overlaps = [line for test in tests for line in _overlaps(test, found)]
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 80)
    for one in [*found, *tests]:
        show(console, one, unit)
    for line in overlaps:
        console.print(line, markup=False)
    if cfg.page is not None:
        atomic.write_text(Path(cfg.page), page([*found, *tests], overlaps, unit))
        console.print(f"wrote {cfg.page}", markup=False, soft_wrap=True)
    errors = [error for one in [*found, *tests] for error in one.errors]
    if errors:
        raise UserError("; ".join(errors))


def inspected(source: str, cfg: InspectConfig, tokenizer: Tokenizer | None) -> Inspected:
    """Read a source through, once. UserError where nothing reads it."""
    whole = whole_source(source)
    shape = recognize(whole)
    if shape.kind is None:
        raise UserError(f"{source}: {shape.why}")
    measure: Measure = (lambda text: len(text.split())) if tokenizer is None else _counting(tokenizer)
    figures, bad, lines = Figures(shape.kind, measure, cfg.max_length), BadRows(cfg.bad_rows), list[str]()
    made = Inspected(shape.spelled + source.removeprefix(whole), figures, lines)
    count = count_rows(shape.spelled)
    with Progress(count, f"inspecting {source}", "rows", show=count > MANY) as bar:
        for where, row in placed_rows(made.source, KINDS[shape.kind], bad):
            figures.add(row, where)
            _check(made, row, where, cfg, tokenizer)
            if len(made.examples) < cfg.examples and (shown := _shown(row, shape.kind, cfg, tokenizer)):
                made.examples.append(Example(where, shown))
            bar.update()
    figures.finish()
    bad.say(lines.append)
    return made


def _counting(tokenizer: Tokenizer) -> Measure:
    return lambda text: len(tokenizer.encode(text))


def _shown(row: Any, kind: str, cfg: InspectConfig, tokenizer: Tokenizer | None) -> dict[str, list[Run]]:
    """Return a row as it would be trained."""
    loss = loss_of(row, kind, cfg.loss)
    return {
        name: by_messages(messages, loss)[0] if tokenizer is None else encoded(messages, loss, tokenizer)
        for name, messages in dialogues(row, kind).items()
    }


def _check(made: Inspected, row: Any, where: str, cfg: InspectConfig, tokenizer: Tokenizer | None) -> None:
    """Note what is wrong with a dialogue's mask; of a pair an empty answer is left out, and counted."""
    if made.figures.kind != "dialogue":
        return
    loss = loss_of(row, "dialogue", cfg.loss)
    if tokenizer is None:
        wrong = by_messages(row["messages"], loss)[1]
    else:
        wrong = fault(*encode_dialogue(row["messages"], tokenizer, loss), tokenizer)
    if wrong is not None:
        made.errors[:] = made.errors or [f"{where}: {wrong}"]
        made.figures.note(f"errors: {wrong}", where)


def _overlaps(test: Inspected, sources: list[Inspected]) -> list[str]:
    """Return a line per source about the prompts that a test set shares with it, or one that there are none."""
    count = len(test.figures.prompts)
    lines = [
        f"{shared:,} of the {count:,} prompts in {test.source} stand in {one.source} too"
        for one in sources
        if (shared := one.figures.overlap(test.figures))
    ]
    return lines or [f"none of the {count:,} prompts in {test.source} stands in the sources"]


# --- what is said ------------------------------------------------------------------------------------------------


def facts(one: Inspected, unit: str) -> list[tuple[str, str]]:
    """Return the figures of a source in words: what, and how much."""
    figures = one.figures
    said = [(f"{figures.kind}s", f"{figures.rows:,}")]
    if figures.turns.total:
        said.append(("turns per dialogue", f"{float(figures.turns):.1f}"))
    said.append((f"{unit} per example", f"{float(figures.example):.1f}, the longest {figures.longest:,}"))
    for name, mean in (("prompt", figures.prompt), ("response", figures.response)):
        if mean.count:
            said.append((f"{unit} in {name}", f"{float(mean):.1f}"))
    if figures.max_length is not None:
        said.append(
            (f"longer than {figures.max_length:,}", f"{figures.too_long:,} ({_share(figures.too_long, figures)})")
        )
    for what, counter in figures.counts.items():
        words = ", ".join(f"{word.replace('_', ' ')} {_share(n, counter)}" for word, n in counter.most_common(6))
        of = f" (of the first {LANGUAGES_OF:,})" if what == "languages" and figures.rows > LANGUAGES_OF else ""
        said.append((what, words + of))
    if figures.longer_wins.count:
        said.append(("chosen is longer by", f"{float(figures.gap):+.1f} {unit}"))
        said.append(("longer wins", f"would be right in {float(figures.longer_wins):.1%} of pairs"))
    return said


def findings(one: Inspected) -> list[str]:
    """Return what is strange in a source: each with how often, and where the first stand."""
    strange = one.figures.strange
    lines = [
        f"{one.figures.strange_counts[what]:,} {what}: {named(strange[what], one.figures.strange_counts[what])}"
        for what in strange
    ]
    left = one.figures.faults
    lines += [
        f"{counted(left[why], 'pair')} {FAULTS[why]}: {named(places, left[why])}" for why, places in left.first.items()
    ]
    return [*lines, *one.bad]


def _share(count: int, of: Figures | Any) -> str:
    return f"{count / max(1, of.rows if isinstance(of, Figures) else of.total()):.1%}"


def show(console: Console, one: Inspected, unit: str) -> None:
    """Print a source: figures, findings, examples."""
    console.print(Text(one.source, style="bold"))
    table = Table.grid(padding=(0, 2))
    for what, how in facts(one, unit):
        table.add_row(f"  {what}", Text(how))
    console.print(table)
    for line in findings(one):
        console.print(Text(f"{' ' if line[0] == ' ' else '!'} {line}", style="yellow"))
    for example in one.examples:
        console.print(Text(f"\n{example.where}", style="cyan"))
        for name, runs in example.dialogues.items():
            text = Text()
            for content, trained in runs:
                text.append(content, style=TRAINED if trained else "dim")
            console.print(Padding(Text.assemble((f"{name}: " if name else ""), text), (0, 0, 0, 2)))
    if one.examples:
        console.print(
            Text.assemble(
                "\n", ("green", TRAINED), " is trained (of pairs: scored), ", ("the rest", "dim"), " is not\n"
            )
        )


@cache
def _template() -> Any:
    folder = Path(__file__).with_name("templates")
    loader = FileSystemLoader(folder)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.get_template("inspect.html")


def page(found: list[Inspected], overlaps: list[str], unit: str) -> str:
    """Return the same as a self-contained HTML page."""
    shown = [{"one": one, "facts": facts(one, unit), "findings": findings(one)} for one in found]
    return str(_template().render(found=shown, overlaps=overlaps))


if __name__ == "__main__":
    main("inspect", InspectConfig, inspect)
