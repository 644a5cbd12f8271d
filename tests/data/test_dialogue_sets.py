"""Adapters of dialogues: rows as the sets publish them, what is trained of each, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamatrain.chat import encode_dialogue
from llamatrain.data.kinds import DialogueRow, DocumentRow, PreferenceRow, PromptRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer
from tests.data.published import ALPACA, ASK, COMPLETION, DIALOGUES, OPENAI, PREFERENCES, SHAREGPT, TELL


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def told(path: Path, adapter: str, *rows: Any) -> list[DialogueRow]:
    return list(read_rows(f"{adapter}:{write(path / 'rows.jsonl', *rows)}", DialogueRow))


SKY = ["Why is the sky blue?", "Light scatters.", "And red at dusk?", "A longer way."]


@pytest.mark.parametrize(
    ("adapter", "contents"),
    [
        ("openai_messages", ["Be short.", *SKY]),
        ("sharegpt", SKY),
        ("alpaca", ["Name the colour.\n\nThe sky at noon.", "Blue."]),
        (
            "dolly",
            [
                "Virgin Australia commenced services on 31 August 2000.\n\nWhen did Virgin Australia start?",
                "In 2000.",
            ],
        ),
        ("flan", ["Premise: it rains. Is it wet?", "yes"]),
        ("prompt_completion", SKY[:2]),
        ("oasst", SKY[:2]),
    ],
)
def test_a_published_row_becomes_a_dialogue(adapter: str, contents: list[str], tmp_path: Path) -> None:
    [row] = told(tmp_path, adapter, DIALOGUES[adapter])
    assert [message["content"] for message in row["messages"]] == contents
    roles = ["system"] * (len(contents) % 2) + ["user", "assistant"] * (len(contents) // 2)
    assert [message["role"] for message in row["messages"]] == roles
    assert row["source"] == adapter
    path = tmp_path / "rows.jsonl"
    [prompt] = read_rows(f"{adapter}:{path}", PromptRow)
    assert prompt["messages"] == row["messages"][:-1] and not prompt["is_adversarial"]
    [document] = read_rows(f"{adapter}:{path}", DocumentRow)
    assert document["text"].endswith(f"User: {contents[-2]}\n\nAssistant: {contents[-1]}")


def check_mask(row: DialogueRow, tokenizer: Tokenizer) -> None:
    """Hold the trained characters of a dialogue against its answers, and all others against the rest."""
    tokens, mask = encode_dialogue(row["messages"], tokenizer, row.get("loss", "all"))
    spans: list[list[int]] = []
    for token, trained, before in zip(tokens, mask, [False, *mask[:-1]], strict=True):
        if trained and not before:
            spans.append([])
        if trained:
            spans[-1].append(token)
    answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    answers = answers[-1:] if row.get("loss") == "last" else answers
    assert [tokenizer.decode(span) for span in spans] == [f"{answer.strip()} " for answer in answers]
    assert all(span[-1] == tokenizer.eos_id and span.count(tokenizer.eos_id) == 1 for span in spans)
    untrained = tokenizer.decode([token for token, trained in zip(tokens, mask, strict=True) if not trained])
    assert all(message["content"] in untrained for message in row["messages"] if message["role"] != "assistant")


@pytest.mark.parametrize("adapter", [*DIALOGUES, *PREFERENCES])
def test_what_is_trained_is_the_answers_to_the_character(adapter: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Of preferences the answer that was liked best; and what is scored of every pair is its answer, too."""
    published = (DIALOGUES | PREFERENCES)[adapter]
    [row] = told(tmp_path, adapter, published)
    check_mask(row, tokenizer)
    for pair in read_rows(f"{adapter}:{tmp_path / 'rows.jsonl'}", PreferenceRow) if adapter in PREFERENCES else ():
        for side in (pair["chosen"], pair["rejected"]):
            answer: Any = {"role": "assistant", "content": side}
            check_mask({"messages": [*pair["messages"], answer], "loss": "last"}, tokenizer)


@pytest.mark.parametrize(
    "source",
    [
        "oasst:{}/oasst/en_100_tree.jsonl",
        pytest.param("fairytale_questions:{}/fairytales/questions.train.jsonl.gz", marks=pytest.mark.slow),
        "fairytale_questions:{}/fairytales/questions.val.jsonl.gz",
        "hh_rlhf:{}/hh-rlhf/helpful-base.jsonl.gz",
        "hh_rlhf:{}/hh-rlhf/harmless-base.jsonl.gz",
    ],
)
def test_what_is_trained_of_real_rows_is_the_answers(source: str, shared_data: Path, tokenizer: Tokenizer) -> None:
    for row in read_rows(source.format(shared_data), DialogueRow):
        if row["messages"][-1]["content"]:  # an empty answer has but its end to train
            check_mask(row, tokenizer)


@pytest.mark.parametrize(
    ("adapter", "row", "reason"),
    [
        ("openai_messages", {"messages": [ASK, {**TELL, "tool_calls": [{}]}]}, "a message calls a tool"),
        (
            "openai_messages",
            {"messages": [{**ASK, "content": [{"type": "image_url", "image_url": {}}]}, TELL]},
            "a message holds more than text",
        ),
        (
            "openai_messages",
            {"messages": [ASK, TELL, ASK, {**TELL, "weight": 0}]},
            "answers before the last are trained and others are not",
        ),
        ("sharegpt", {"conversations": SHAREGPT["conversations"][:1]}, "there is no answer"),  # type: ignore[index]
        ("sharegpt", {"conversations": SHAREGPT["conversations"][1:]}, "user and assistant do not take turns"),  # type: ignore[index]
        ("alpaca", {**ALPACA, "output": " "}, "a message is empty"),
        ("prompt_completion", {**COMPLETION, "prompt": "[INST] Why?"}, "a message holds a tag of the chat format"),
    ],
)
def test_what_gives_no_dialogue_is_counted_by_reason_and_named(
    adapter: str, row: Any, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", row, DIALOGUES[adapter], row)
    bad = BadRows("stop")  # nobody's mistake: it stops nothing
    assert len(list(read_rows(f"{adapter}:{path}", DialogueRow, bad))) == 1
    [(counted, count)] = bad.counts.items()
    assert counted.startswith(reason) and (count, bad.wrong) == (2, 0)
    said: list[str] = []
    bad.say(said.append)
    assert said[1] == f"  2 like {path}:1: {counted}"
    assert said[2] == f"    at {path}:1, 3"
    write(path, row)
    with pytest.raises(UserError, match=rf"holds no dialogue rows, need at least one \({path}:1: {reason}"):
        list(read_rows(f"{adapter}:{path}", DialogueRow))


def test_parts_of_text_and_weights(tmp_path: Path) -> None:
    parts = {**ASK, "content": [{"type": "text", "text": "Why is "}, {"type": "text", "text": "the sky blue?"}]}
    row = {"messages": [parts, {**TELL, "weight": 0}, ASK, {**TELL, "weight": 1}]}
    [made] = told(tmp_path, "openai_messages", row)
    assert (made["messages"][0]["content"], made["loss"]) == ("Why is the sky blue?", "last")
    [made] = told(tmp_path, "openai_messages", OPENAI)
    assert "loss" not in made


def test_a_row_of_another_set_stops(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.jsonl:1: not a row that 'alpaca' can read \(KeyError: 'output'\)"):
        told(tmp_path, "alpaca", {"instruction": "Say."})
    with pytest.raises(UserError, match=r"rows\.jsonl:1: found 'alien' as who speaks, need one of system, "):
        told(tmp_path, "sharegpt", {"conversations": [{"from": "alien", "value": "Hi"}]})
