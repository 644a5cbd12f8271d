"""The report's samples: the same prompts answered by every model."""

from __future__ import annotations

import math

from llamatrain.runs import Row, decimals, is_number

from ..story import Story, gold, is_adversarial, logit

LONGEST = 600  # characters that are shown of a text


def samples(story: Story) -> Row | None:
    """Return prompts spread evenly over the held-out set, of both kinds."""
    kinds = []
    for adversarial, title in ((False, "Harmless prompts"), (True, "Adversarial prompts")):
        shown = [sample(story, messages, rows) for messages, rows in story.side_by_side(adversarial)]
        kinds += [(title, shown)] if shown else []
    rows = [row for own in story.responses.values() for row in own]
    judged = any(gold(row) is not None for row in rows)
    scored = any(is_number(row.get("helpfulness")) for row in rows)
    return {"kinds": kinds, "judged": judged, "scored": scored} if kinds else None


def sample(story: Story, messages: list[Row], rows: dict[str, Row], why: str = "") -> Row:
    """Return one prompt with every model's response; `why` says why it is shown."""
    golds = {model: value for model, row in rows.items() if (value := gold(row)) is not None}
    best = max(golds.values()) if len(set(golds.values())) > 1 else math.inf  # where all are equal none is marked
    return {
        "why": f"{why[:1].upper()}{why[1:]}." if why else "",
        "turns": [(str(message.get("role")), clipped(str(message.get("content")))) for message in messages],
        "answers": [_answer(story, model, row, golds.get(model) == best) for model, row in rows.items()],
    }


def _answer(story: Story, model: str, row: Row, best: bool) -> Row:
    """Return one response with what it was scored: by the judge, by the reward model that governs the prompt."""
    name, key = ("safety", "safety_score") if is_adversarial(row) else ("helpfulness", "helpfulness")
    value = gold(row)
    marks = [] if value is None else [(f"gold {name}", decimals(value, 2))]
    if is_number(row.get(key)) and model not in story.pretrained:
        marks.append(("score", decimals(logit(row[key]), 2)))
    return {
        "model": model,
        "colour": story.colours[model],
        "best": best,
        "text": clipped(str(row.get("response") or "").strip()) or "(empty)",
        "finished": bool(row.get("finished", True)),
        "marks": marks,
    }


def clipped(text: str) -> str:
    """Return a text, its end left out where it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
