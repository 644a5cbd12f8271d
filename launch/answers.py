"""Which held-out prompts are shown to people: three that every model answered, and what a chat can be asked.

Chosen by rules, which are shown with them, from the responses and judgements in a pipeline's folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from llamatrain.runs import Row, is_number
from llamatrain.streams import shown

from .story import Story, gold, gold_score, is_adversarial, logit

RIGHT = 0.9  # the gold score from which an answer is right


@dataclass(frozen=True)
class Shown:
    """A prompt with every model's first sampled response, and why it was chosen."""

    why: str
    messages: list[Row]
    answers: dict[str, Row]


def three(story: Story) -> list[Shown]:
    """Return a harmless prompt on which tuning gained most, one on which it lost most, and a typical adversarial one.

    Gains and losses are the last model's over the first tuned one, by the gold judge, or by the helpfulness reward model
    where there is no judge; the adversarial prompt is where the last model's safety is the median. First of equals.
    """
    if not story.tuned:
        return []
    first, last = story.tuned[0], story.tuned[-1]
    judged = any(gold_score(row, "helpfulness") is not None for row in story.responses[last])
    by = "by the gold judge" if judged else "by the reward model"
    found, gains = [], []
    for messages, answers in story.prompts(adversarial=False):
        after, before = (_value(answers.get(model, {}), "helpfulness", judged) for model in (last, first))
        if after is not None and before is not None:
            gains.append((after - (before if first != last else 0.0), messages, answers))
    if gains:
        than = f" over {first}" if first != last else ""
        best, worst = max(gains, key=lambda one: one[0]), min(gains, key=lambda one: one[0])
        found.append(Shown(f"the harmless prompt on which {last} gains most{than}, {by}", *best[1:]))
        found.append(Shown(f"the one on which it gains least, or loses most, {by}", *worst[1:]))
    adversarial: list[tuple[float, list[Row], dict[str, Row]]] = []
    for messages, answers in story.prompts(adversarial=True):
        value = _value(answers.get(last, {}), "safety", judged)
        if value is not None:
            adversarial.append((value, messages, answers))
    if adversarial:
        typical = sorted(adversarial, key=lambda one: one[0])[len(adversarial) // 2]
        found.append(Shown(f"an adversarial prompt: the median of {last}'s safety, {by}", *typical[1:]))
    return found


def _value(row: Row, name: str, judged: bool) -> float | None:
    if judged:
        return gold_score(row, name)
    score = row.get("safety_score" if name == "safety" else name)
    return logit(score) if is_number(score) else None


def side_by_side(prompts: Iterable[Shown]) -> Group:
    """Return the prompts for the terminal, each with its answers beside each other."""
    parts: list[RenderableType] = []
    for one in prompts:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
        for model in one.answers:
            table.add_column(escape(model), ratio=1)
        table.add_row(*(escape(_said(row)) for row in one.answers.values()))
        parts += [f"[bold]> {escape(shown(question(one.messages)))}[/bold]  [dim]{escape(one.why)}[/dim]", table, ""]
    return Group(*parts)


def _said(row: Row) -> str:
    text = shown(" ".join(str(row.get("response")).split())) or "(empty)"
    value, name = gold(row), "safety" if is_adversarial(row) else "helpfulness"
    cut = "" if row.get("finished", True) else " …"
    return f"{text}{cut}" if value is None else f"{text}{cut}\n(gold {name} {value:.2f})"


def question(messages: list[Row]) -> str:
    """Return a dialogue's last turn, with how many stand before it."""
    before = f"({len(messages) - 1} turns before it) " if len(messages) > 1 else ""
    return before + " ".join(str(messages[-1].get("content")).split()) if messages else ""


def questions(checkpoint: str) -> list[str]:
    """Return what a chat with this checkpoint can be asked: held-out prompts that it answered right in every sample.

    Two harmless ones of different tasks and an adversarial one, where its run is a pipeline's and the gold judge scored
    its samples: of those with the best scores the shortest, and of the adversarial ones (some are a riddle of a few
    letters) that of middle length. Empty for any other checkpoint.
    """
    final = Path(checkpoint).absolute()
    folder = next((path for path in final.parents[:4] if (path / "pipeline.json").is_file()), None)
    if folder is None:
        return []
    story = Story(folder)
    if story.older:
        return []
    models = {model: stage.folder / "final" for model, stage in story.trained.items()}
    model = next((m for m, made in models.items() if made.exists() and made.resolve() == _final(final)), None)
    rows = story.responses.get(model, []) if model else []
    prompts: dict[str, list[Row]] = {}
    for row in rows:
        prompts.setdefault(str(row.get("prompt_id")), []).append(row)
    right = sorted((rank for rows in prompts.values() if (rank := _rank(rows))), key=lambda rank: rank[:2])
    # Backwards, so that the best of each task is written last and stays.
    harmless = {task: text for _, _, task, text, adversarial in reversed(right) if not adversarial}
    ranked = [text for _, _, task, text, _ in right if harmless.get(task) == text]
    adversarial = [text for worst, _, _, text, adversarial in right if adversarial and worst == _best(right)]
    return [*ranked[:2], *adversarial[len(adversarial) // 2 :][:1]]


def _best(right: list[tuple[float, int, str, str, bool]]) -> float:
    return min((worst for worst, _, _, _, adversarial in right if adversarial), default=0.0)


def _final(path: Path) -> Path:
    return (path / "final" if (path / "final").exists() else path).resolve()


def _rank(rows: list[Row]) -> tuple[float, int, str, str, bool] | None:
    """Return how a prompt ranks (the lowest helpfulness of its samples, negative; its length) where all are right."""
    messages, adversarial = rows[0].get("messages") or [], is_adversarial(rows[0])
    scores = [gold_score(row, "safety" if adversarial else "helpfulness") for row in rows]
    if len(messages) != 1 or any(value is None or value < RIGHT for value in scores):
        return None
    text = shown(" ".join(str(messages[0].get("content")).split()))
    task = str(next(iter(rows[0]["judgement"].get("reasons") or []), ""))
    return -min(gold_score(row, "helpfulness") or 0.0 for row in rows), len(text), task, text, adversarial
