"""The report's samples: the same prompts answered by every model."""

from __future__ import annotations

import math
from html import escape

from ..runs import Row, decimals, is_number
from ..story import Story, gold, is_adversarial, logit

LONGEST = 600  # characters that are shown of a text


def samples(story: Story) -> str:
    """Prompts spread evenly over the held-out set, of both kinds."""
    found = ""
    for adversarial, title in ((False, "Harmless prompts"), (True, "Adversarial prompts")):
        shown = [sample(story, messages, rows) for messages, rows in story.side_by_side(adversarial)]
        found += (f'<h3 class="part">{title}</h3>' if shown else "") + "".join(shown)
    rows = [row for own in story.responses.values() for row in own]
    lead = "The first sampled response of every model to prompts spread evenly over the held-out set: not picked."
    if any(gold(row) is not None for row in rows):
        lead += " ★ marks what the gold judge likes best."
    if any(is_number(row.get("helpfulness")) for row in rows):
        lead += " Scores are those of the reward model that governs the prompt, as logits."
    return f'<p class="lead">{lead}</p>{found}' if found else ""


def sample(story: Story, messages: list[Row], rows: dict[str, Row], why: str = "") -> str:
    """Return one prompt with every model's response; `why` says why it is shown."""
    turns = "".join(
        f'<span class="role">{escape(str(m.get("role")))}</span>{escape(clipped(str(m.get("content"))))}'
        for m in messages
    )
    marks = {model: value for model, row in rows.items() if (value := gold(row)) is not None}
    best = max(marks.values()) if len(set(marks.values())) > 1 else math.inf  # where all are equal none is marked
    answers = "".join(_answer(story, model, row, marks.get(model) == best) for model, row in rows.items())
    reason = f'<p class="why">{escape(why[:1].upper() + why[1:])}.</p>' if why else ""
    return (
        f'<div class="card sample">{reason}<div class="prompt">{turns}</div><div class="answers">{answers}</div></div>'
    )


def _answer(story: Story, model: str, row: Row, best: bool) -> str:
    """Return one response with what it was scored: by the judge, by the reward model that governs the prompt."""
    text = clipped(str(row.get("response") or "").strip()) or "(empty)"
    cut = "" if row.get("finished", True) else ' <span class="cut">… (unfinished)</span>'
    name, key = ("safety", "safety_score") if is_adversarial(row) else ("helpfulness", "helpfulness")
    value = gold(row)
    marks = [] if value is None else [_mark(f"gold {name}", value)]
    if is_number(row.get(key)) and model not in story.pretrained:
        marks.append(_mark("score", logit(row[key])))
    who = f"{escape(model)}{' ★' if best else ''}"
    return (
        f'<div class="answer c{story.colours[model]}"><div class="who">{who}</div><p>{escape(text)}{cut}</p>'
        f'<div class="marks">{" · ".join(marks)}</div></div>'
    )


def _mark(name: str, value: float) -> str:
    return f'<span class="mark">{name} <b>{decimals(value, 2)}</b></span>'


def clipped(text: str) -> str:
    """Return a text, its end left out where it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
