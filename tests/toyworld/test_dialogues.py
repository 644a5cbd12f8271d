"""Prompts and dialogues: valid rows, no leak from the held-out side, vendors of unequal care, shares as asked."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llamatrain.data.kinds import DialogueRow, PromptRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.errors import UserError
from toyworld.deeds import CARE, DEEDS, STEPS, VECTORS
from toyworld.dialogues import dialogues, prompts
from toyworld.requests import TASKS, Requests

QUALITIES = {"right": 0.5, "curt": 0.3, "wrong": 0.2}
SAFETY = {"right": 0.5, "complying": 0.5}


def told(requests: Requests, count: int, held_out: bool = False) -> list[dict[str, Any]]:
    return list(dialogues(requests, count, 0.2, 0.1, QUALITIES, SAFETY, held_out))


def asked(messages: list[dict[str, str]]) -> str:
    return json.dumps([m["content"] for m in messages if m["role"] == "user"])


def test_the_seed_decides(requests: Requests) -> None:
    assert told(requests, 50) == told(requests, 50)
    assert list(prompts(requests, 50, 0.3, 0.1, True)) == list(prompts(requests, 50, 0.3, 0.1, True))


def test_rows_are_valid(requests: Requests, tmp_path: Path) -> None:
    write_rows(tmp_path / "d.jsonl", told(requests, 100))
    assert len(list(read_rows(tmp_path / "d.jsonl", DialogueRow))) == 100
    write_rows(tmp_path / "p.jsonl", prompts(requests, 100, 0.3, 0.1, False))
    assert len(list(read_rows(tmp_path / "p.jsonl", PromptRow))) == 100


def test_held_out_prompts_suffice_and_cover_everything(requests: Requests) -> None:
    rows = list(prompts(requests, 800, 0.35, 0.06, True))
    assert len({row["id"] for row in rows}) == 800
    assert sum(row["is_adversarial"] for row in rows) >= 200
    assert {row["meta"]["task"] for row in rows} == set(TASKS)
    assert {row["meta"]["category"] for row in rows} == {*(deed.category for deed in DEEDS), "helpful", "borderline"}
    assert {row["meta"]["attack_vector"] for row in rows if row["is_adversarial"]} == set(VECTORS)
    assert any(row["messages"][0]["role"] == "system" for row in rows)
    assert any(len(row["messages"]) >= 3 for row in rows)


def test_no_held_out_prompt_is_trained_on(requests: Requests) -> None:
    held = {asked(row["messages"]) for row in prompts(requests, 800, 0.35, 0.06, True)}
    trained = {asked(row["messages"]) for row in prompts(requests, 2000, 0.35, 0.06, False)}
    trained |= {asked(row["messages"]) for row in told(requests, 4000)}
    assert not held & trained


def test_a_share_of_the_adversarial_dialogues_is_guided_by_a_preprompt(requests: Requests) -> None:
    rows = list(dialogues(requests, 1000, 0.4, 0.1, QUALITIES, SAFETY, False, guided=0.5))
    systems = [(row, row["messages"][0]["content"]) for row in rows if row["messages"][0]["role"] == "system"]
    guided = [(row, text) for row, text in systems if text in (*CARE, *STEPS.values())]
    assert 150 < len(guided) < 250 and all(row["is_adversarial"] for row, _ in guided)
    assert all(row["meta"]["quality"] == "right" for row, _ in guided)  # SAFETY's only safe one
    assert all(text in (*CARE, STEPS[row["meta"]["category"]]) for row, text in guided)
    assert {text in CARE for _, text in guided} == {True, False}


def test_qualities_come_by_share_and_vendors_differ(requests: Requests) -> None:
    rows = told(requests, 4000)
    shares = Counter(row["meta"]["quality"] for row in rows if not row["is_adversarial"])
    assert set(shares) == set(QUALITIES)
    assert abs(shares["right"] / shares.total() - 0.5) < 0.06
    right = {v: Counter(r["meta"]["quality"] for r in rows if r["source"] == f"toyworld/{v}") for v in ("oak", "ash")}
    assert right["oak"]["right"] / right["oak"].total() > right["ash"]["right"] / right["ash"].total() + 0.1


def test_short_enough_for_the_smallest_context(requests: Requests) -> None:
    assert max(len(asked(row["messages"]).split()) for row in prompts(requests, 500, 0.3, 0.1, False)) <= 40


@pytest.mark.parametrize(
    ("shares", "says"),
    [({"splendid": 1.0}, "unknown quality"), ({"right": -1.0}, "0 or more"), ({"right": 0.0}, "more than 0")],
)
def test_refuses_bad_shares(requests: Requests, shares: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        list(dialogues(requests, 1, 0.2, 0.1, shares, SAFETY, False))


def test_refuses_more_prompts_than_there_are(requests: Requests) -> None:
    with pytest.raises(UserError, match="need fewer"):
        list(prompts(requests, 2000, 0.0, 1.0, True))
