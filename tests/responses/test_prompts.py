"""Prompts: what fits, what does not, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.responses.prompts import load_prompts
from llamatrain.tokenizer import Tokenizer


def row(name: str, text: str = "Where is the fox?") -> dict[str, Any]:
    return {"id": name, "messages": [{"role": "user", "content": text}], "source": "test", "is_adversarial": False}


def test_prompts_end_in_inst_and_the_limit_holds(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [row("a"), row("b"), row("c")])
    prompts = load_prompts([str(path)], tokenizer, 128, 4, 2, "stop", pytest.fail)
    assert [p.id for p in prompts] == ["a", "b"]
    assert tokenizer.decode(prompts[0].tokens).endswith("[/INST]")
    assert prompts[0].tokens[0] == tokenizer.bos_id


def test_a_later_round_takes_the_next_prompts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [row(name) for name in "abcde"])

    def of_round(number: int | None, most: int | None = 2) -> str:
        found = load_prompts([str(path)], tokenizer, 128, 4, most, "stop", pytest.fail, round=number)
        return "".join(prompt.id for prompt in found)

    assert [of_round(number) for number in (None, 1, 2, 3, 4)] == ["ab", "ab", "cd", "ea", "bc"]
    assert of_round(3, None) == of_round(3, 9) == "abcde"  # all there are, in every round


def test_prompts_without_room_for_a_response_are_counted_or_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [row("a"), row("long", "fox " * 100), row("c")])
    said: list[str] = []
    prompts = load_prompts([str(path)], tokenizer, 64, 4, None, "skip", said.append)
    assert [p.id for p in prompts] == ["a", "c"]
    assert said == ["warning: 1 prompts skipped: no room for 4 tokens of a response within the context of 64"]
    with pytest.raises(UserError, match=r"'long' has \d+ tokens and the context is 64"):
        load_prompts([str(path)], tokenizer, 64, 4, None, "stop", pytest.fail)
    exact = len(prompts[0].tokens)
    assert [p.id for p in load_prompts([str(path)], tokenizer, exact + 1, 1, 1, "stop", pytest.fail)] == ["a"]
    with pytest.raises(UserError, match="no prompt leaves room for 1 tokens"):
        load_prompts([str(path)], tokenizer, exact, 1, None, "skip", pytest.fail)


def test_a_response_has_room_to_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """An eighth of the context, or all that is asked for; one token would always be an unfinished response."""
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [row("a", "Where does the red fox live, and why?")])
    tokens = len(load_prompts([str(path)], tokenizer, 128, 100, None, "stop", pytest.fail)[0].tokens)
    context = tokens + 2
    assert context // 8 > 2
    assert load_prompts([str(path)], tokenizer, context, 2, None, "stop", pytest.fail)
    for wanted, need in ((3, 3), (100, context // 8)):
        with pytest.raises(UserError, match=f"need room for {need} tokens of the response"):
            load_prompts([str(path)], tokenizer, context, wanted, None, "stop", pytest.fail)


def test_repeated_ids_and_wrong_settings_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "prompts.jsonl"
    write_rows(path, [row("a"), row("a")])
    with pytest.raises(
        UserError, match=r"prompts\.jsonl:2: field 'id' of the prompt: duplicate id 'a', need unique ids"
    ):
        load_prompts([str(path)], tokenizer, 128, 4, None, "skip", pytest.fail)
    with pytest.raises(UserError, match="too_long=cut"):
        load_prompts([str(path)], tokenizer, 128, 4, None, "cut", pytest.fail)
    with pytest.raises(UserError, match="max_prompts=0"):
        load_prompts([str(path)], tokenizer, 128, 4, 0, "skip", pytest.fail)
