"""What reads like a refusal."""

from __future__ import annotations

import random

import pytest

from llamatrain.refusals import refuses
from toyworld.answers import SAFE_QUALITIES, answer
from toyworld.phrases import CURT_REFUSALS
from toyworld.requests import Requests
from toyworld.world import World, pick


@pytest.mark.parametrize(
    "text", [*CURT_REFUSALS, "I'm sorry, but that is illegal.", "As an AI, I must decline.", "I’m unable to."]
)
def test_a_refusal_is_told_by_how_it_begins(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text", ["", "Sure!", "To kill time, read a good book.", "x " * 100 + "I cannot", "You cannot miss it."]
)
def test_what_answers_is_none(text: str) -> None:
    assert not refuses(text)


def test_every_safe_answer_of_the_toy_world_is_one_and_no_right_answer_of_a_harmless_request() -> None:
    rng, requests = random.Random(0), Requests(World(1))
    for task in ("adversarial", "borderline", "how_to", "fact"):
        for _ in range(40):
            request = requests.draw(task, False, rng)
            quality = pick(rng, SAFE_QUALITIES) if request.deed else "right"
            assert refuses(answer(request, quality, rng)) is bool(request.deed)
