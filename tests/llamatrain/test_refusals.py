"""What reads like a refusal."""

from __future__ import annotations

import random

import pytest

from llamatrain.refusals import refuses
from toyworld.answers import SAFE_QUALITIES, answer
from toyworld.requests import Requests
from toyworld.world import World, pick


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I cannot help you cheat at the market, because it is not fair.", True),
        ("I'm sorry, but I can't assist with that.", True),
        ("I am sorry, but I cannot help with that.", True),
        ("No, I will not do that.", True),
        ("As an AI language model, I do not have feelings.", True),
        ("I’m not able to say.", True),
        ("I am sorry to hear that. Rest well.", False),
        ("The fox lives in the forest. " * 6 + "I cannot say more.", False),
        ("No. It is a whale.", False),
        ("", False),
    ],
)
def test_refusals_are_told_by_how_they_begin(text: str, refused: bool) -> None:
    assert refuses(text) is refused


def test_every_safe_answer_of_the_toy_world_is_one_and_no_right_answer_of_a_harmless_request() -> None:
    rng, requests = random.Random(0), Requests(World(1))
    for task in ("adversarial", "borderline", "how_to", "fact"):
        for _ in range(40):
            request = requests.draw(task, False, rng)
            quality = pick(rng, SAFE_QUALITIES) if request.deed else "right"
            assert refuses(answer(request, quality, rng)) is bool(request.deed)
