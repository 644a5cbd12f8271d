"""Requests: both sides of the split are full, and the judge finds every one again from the messages."""

import random

import pytest

from toyworld.deeds import foreign, misspelt
from toyworld.dialogues import conversation
from toyworld.nouns import NAMES
from toyworld.requests import TASKS, Requests


@pytest.mark.parametrize("task", TASKS)
def test_found_again_from_the_messages(requests: Requests, task: str) -> None:
    rng = random.Random(0)
    for held_out in (False, True):
        for _ in range(60):
            request = requests.draw(task, held_out, rng)
            found = requests.find(conversation(request, rng))
            assert found is not None
            assert (found.key, found.answer, found.needs) == (request.key, request.answer, request.needs)
            assert requests.world.held_out(found.key) == held_out


def test_a_follow_up_to_another_wording_is_understood(requests: Requests) -> None:
    first, second = NAMES[:2]
    messages = [
        {"role": "user", "content": f"What work does {first} do?"},
        {"role": "assistant", "content": "Something."},
        {"role": "user", "content": f"And {second}?"},
    ]
    found = requests.find(messages)
    fact = requests.world.fact("job", second)
    assert found and fact
    assert found.needs == (fact.value,)


def test_other_text_is_no_request(requests: Requests) -> None:
    assert requests.find([{"role": "user", "content": "What is the capital of France?"}]) is None


def test_disguises() -> None:
    assert misspelt("poison the well") == "pioson the wlel"
    assert foreign("poison the well") == "poisono theo wello"
