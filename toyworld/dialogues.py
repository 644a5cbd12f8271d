"""Prompts and annotated dialogues. The dialogues are of mixed quality: three vendors wrote them with unequal care."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping

from llamatrain.data.kinds import DialogueRow, PromptRow
from llamatrain.errors import UserError

from .answers import QUALITIES, SAFE_QUALITIES, SAFETY_QUALITIES, answer
from .deeds import CARE, STEPS
from .phrases import GREETINGS, PREFIXES, SYSTEMS
from .requests import Messages, Request, Requests
from .world import digest, pick

HELPFUL_TASKS = {
    "fact": 0.31, "passage": 0.11, "compare": 0.12, "how_to": 0.12,
    "story": 0.10, "list": 0.08, "note": 0.08, "follow_up": 0.08,
}  # fmt: skip
# How much more often a vendor's writers hand in the best quality than the mean vendor (paper 3.1: "Quality Is All You
# Need" found vendors to differ so).
VENDORS = {"oak": 1.5, "elm": 1.0, "ash": 0.5}


def conversation(request: Request, rng: random.Random) -> Messages:
    """Return the messages that make this request: sometimes with a system message, a greeting before or polite words."""
    messages: Messages = []
    text, draw = request.text, rng.random()
    for question, reply in request.earlier:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    plain = not messages  # a follow-up question keeps its turns as they are
    roomy = len(text) < 60  # a small model's context has no room for more turns around a long text
    if plain and draw < 0.06 and roomy:
        messages.append({"role": "system", "content": pick(rng, SYSTEMS)})
    elif plain and draw < 0.14 and roomy:
        hello, reply = pick(rng, GREETINGS)
        messages += [{"role": "user", "content": hello}, {"role": "assistant", "content": reply}]
    elif plain and draw < 0.40:
        text = f"{pick(rng, PREFIXES)} {text}"
    return [*messages, {"role": "user", "content": text}]


def draw_request(
    requests: Requests, held_out: bool, adversarial: float, borderline: float, rng: random.Random
) -> Request:
    """Return a request: adversarial, borderline or helpful by the given shares."""
    draw = rng.random()
    if draw < adversarial:
        return requests.draw("adversarial", held_out, rng)
    if draw < adversarial + borderline:
        return requests.draw("borderline", held_out, rng)
    (task,) = rng.choices(list(HELPFUL_TASKS), weights=list(HELPFUL_TASKS.values()))
    return requests.draw(task, held_out, rng)


def prompts(
    requests: Requests, count: int, adversarial: float, borderline: float, held_out: bool
) -> Iterator[PromptRow]:
    """Yield `count` distinct prompts from one side of the split."""
    rng = random.Random(f"prompts/{requests.world.seed}/{held_out}")
    seen: set[str] = set()
    tries = 0
    while len(seen) < count:
        tries += 1
        if tries > 50 * count + 1000:
            raise UserError(f"the toy world has only {len(seen)} distinct prompts, not {count}: need fewer")
        request = draw_request(requests, held_out, adversarial, borderline, rng)
        messages = conversation(request, rng)
        # An id keys the noise of sampling: renaming this kind would change every response.
        kind = "unsafe" if request.is_adversarial else request.task
        name = f"{kind}-{digest(json.dumps(messages)):016x}"
        if name in seen:
            continue
        seen.add(name)
        meta = {"task": request.task, "category": request.category}
        if request.vector:
            meta["attack_vector"] = request.vector
        yield {
            "id": name,
            "messages": messages,
            "source": f"toyworld/{request.task}",
            "is_adversarial": request.is_adversarial,
            "meta": meta,
        }


def dialogues(
    requests: Requests, count: int, adversarial: float, borderline: float, qualities: Mapping[str, float],
    safety_qualities: Mapping[str, float], held_out: bool, guided: float = 0.0,
) -> Iterator[DialogueRow]:  # fmt: skip
    """Yield `count` answered conversations from one side of the split; the qualities are drawn by their shares.

    Of the adversarial ones a share is `guided`: asked after a preprompt, and answered as that says.
    """
    check_shares("qualities", qualities, QUALITIES)
    check_shares("safety_qualities", safety_qualities, SAFETY_QUALITIES)
    rng = random.Random(f"dialogues/{requests.world.seed}/{held_out}")
    for _ in range(count):
        request = draw_request(requests, held_out, adversarial, borderline, rng)
        vendor = pick(rng, tuple(VENDORS))
        shares = safety_qualities if request.is_adversarial else qualities
        told = ""
        if guided and request.is_adversarial and rng.random() < guided:
            told = pick(rng, (*CARE, *[STEPS[request.category]] * len(CARE)))  # by halves
            # Told to be good, writers decline, each in their own way; told how, they do it so.
            safe = {name: safety_qualities.get(name, 0.0) for name in SAFE_QUALITIES}
            shares = safe if told in CARE and any(safe.values()) else {"right": 1.0}
        weights = [share * (VENDORS[vendor] if name == "right" else 1.0) for name, share in shares.items()]
        (quality,) = rng.choices(list(shares), weights=weights)
        reply = answer(request, quality, rng)
        asked: Messages = (
            [{"role": "system", "content": told}, {"role": "user", "content": request.text}]
            if told
            else conversation(request, rng)
        )
        yield {
            "messages": [*asked, {"role": "assistant", "content": reply}],
            "source": f"toyworld/{vendor}",
            "is_adversarial": request.is_adversarial,
            "meta": {"task": request.task, "category": request.category, "quality": quality},
        }


def check_shares(key: str, shares: Mapping[str, float], known: tuple[str, ...]) -> None:
    """Refuse an unknown quality and shares that cannot be drawn from."""
    for name, share in shares.items():
        if name not in known:
            raise UserError(f"{key}.{name}: unknown quality; need one of {', '.join(known)}")
        if share < 0:
            raise UserError(f"{key}.{name}={share}: need a share of 0 or more")
    if sum(shares.values()) <= 0:
        raise UserError(f"{key}: the shares add up to {sum(shares.values())}; need more than 0")
