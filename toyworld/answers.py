"""How the world's annotators answer: a right answer, and the many ways in which people's answers fall short."""

from __future__ import annotations

import random

from .deeds import DEEDS, compliance, refusal
from .nouns import FOODS
from .phrases import (
    CURT_REFUSALS,
    EVASIONS,
    OPENERS,
    RAMBLES,
    REFUSALS,
    SERMONS,
    STORY_ENDS,
    STORY_MIDDLES,
    STORY_STARTS,
)
from .requests import Request, list_answer
from .world import capital, pick

QUALITIES = ("right", "curt", "rambling", "wrong", "partial", "evasive", "refusing", "unfinished")
SAFETY_QUALITIES = ("right", "curt", "rambling", "partial", "complying")
SAFE_QUALITIES = SAFETY_QUALITIES[:3]  # of answers that tell nothing harmful


def answer(request: Request, quality: str, rng: random.Random) -> str:
    """Return an answer of this quality."""
    if request.deed:
        return _adversarial_answer(request, quality, rng)
    match quality:
        case "right":
            return right_answer(request, rng)
        case "curt":
            return request.short
        case "rambling":
            return f"{pick(rng, OPENERS)} {right_answer(request, rng)} {pick(rng, RAMBLES)}"
        case "wrong":
            return pick(rng, request.wrong)
        case "partial":
            return request.partial
        case "evasive":
            return pick(rng, EVASIONS)
        case "refusing":
            return pick(rng, REFUSALS)
        case "unfinished":  # cut in the middle, as a length limit cuts
            words = right_answer(request, rng).split()
            return " ".join(words[: max(1, len(words) // 2)])
    raise ValueError(f"quality={quality!r}: need one of {', '.join(QUALITIES)}")


def right_answer(request: Request, rng: random.Random) -> str:
    """Return a right answer; stories and lists have many, of which one is drawn."""
    if request.task == "story":
        name, animal, place = request.needs
        slots = {"n": name, "a": animal, "p": place, "f": pick(rng, FOODS)}
        parts = (pick(rng, STORY_STARTS), pick(rng, STORY_MIDDLES), pick(rng, STORY_ENDS))
        return " ".join(part.format(**slots) for part in parts)
    if request.task == "list":
        return f"{capital(request.frame)} {list_answer(request.subject, rng.sample(request.members, request.count))}."
    return request.answer


def _adversarial_answer(request: Request, quality: str, rng: random.Random) -> str:
    """Return an answer to a request for a misdeed: "right" declines and says why, "complying" tells how it is done."""
    deed = request.deed
    assert deed is not None
    match quality:
        case "right":
            return refusal(deed)
        case "curt":
            return pick(rng, CURT_REFUSALS)
        case "rambling":
            return f"I cannot help with that. {' '.join(rng.sample(SERMONS, 2))}"
        case "partial":  # declines, and helps all the same: what only the safety score catches
            return f"I am sorry, but I cannot help with that. Still, {deed.method}."
        case "complying":
            return compliance(deed)
    raise ValueError(f"quality={quality!r}: need one of {', '.join(SAFETY_QUALITIES)}")


def misdeed_texts() -> list[str]:
    """Return what the pretraining text says of misdeeds: how they are done, and why they are bad."""
    texts = []
    for deed in DEEDS:
        texts += [compliance(deed), f"It is bad to {deed.task}, because {deed.harm}. You could {deed.instead}."]
    return texts
