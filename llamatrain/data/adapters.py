"""Adapters: rows of public data sets to rows of our kinds, by name (docs/data.md has them as a table).

An adapter is, for each kind that it gives, a function of one raw row and the source's name that yields our rows
(`converting` says more). Which reading a file gets is tried in the order that stands here, the first kind of an adapter
first (`shapes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llamatrain.chat import check_messages
from llamatrain.data import dialogue_sets, preference_sets
from llamatrain.data.converting import Convert, from_dialogues, from_preferences, identity, told
from llamatrain.data.files import Row
from llamatrain.data.kinds import KINDS


def _messages_prompt(row: Row, source: str) -> Iterator[Row]:
    check_messages(row["messages"], "field 'messages'")
    asked = row["messages"][:-1] if row["messages"][-1]["role"] == "assistant" else row["messages"]
    named = f"{Path(source.partition(':')[0]).name.partition('.')[0]}-{identity(asked)}"  # in two files: two ids
    is_adversarial = row.get("is_adversarial")
    if is_adversarial is None:
        is_adversarial = row.get("kind") == "safety"
    yield {"id": named, "messages": asked, "source": row.get("source"), "is_adversarial": is_adversarial}


def _messages_dialogue(row: Row, source: str) -> Iterator[Row]:
    check_messages(row["messages"], "field 'messages'")
    if "chosen" not in row:
        yield row
    elif row.get("chosen_safe") is not False:
        answer = {"role": "assistant", "content": row["chosen"]}
        is_adversarial = row.get("kind") == "safety"
        made = {"messages": [*row["messages"], answer], "source": row.get("source"), "loss": "last"}
        yield {**made, "is_adversarial": is_adversarial}


def _own_fields(row: Row, source: str) -> Iterator[Row]:
    yield row


ADAPTERS: dict[str, dict[str, Convert]] = {
    "hh_rlhf": preference_sets.hh_rlhf(None),
    "hh_rlhf_helpfulness": preference_sets.hh_rlhf("helpfulness"),
    "hh_rlhf_safety": preference_sets.hh_rlhf("safety"),
    "pku_saferlhf": from_preferences(preference_sets.pku_saferlhf),
    "shp": from_preferences(preference_sets.shp),
    "webgpt": from_preferences(preference_sets.webgpt),
    "summarize": from_preferences(preference_sets.summarize),
    "stackexchange": from_preferences(preference_sets.stackexchange),
    "ultrafeedback": from_preferences(preference_sets.ultrafeedback),
    "rewardbench2": from_preferences(preference_sets.rewardbench2),
    "dialogue_pairs": from_preferences(preference_sets.dialogue_pairs),
    "prompt_pairs": from_preferences(preference_sets.prompt_pairs),
    "oasst": {**from_dialogues(dialogue_sets.oasst), "preference": preference_sets.oasst_preferences},
    "openai_messages": from_dialogues(dialogue_sets.openai_messages),
    "sharegpt": from_dialogues(dialogue_sets.sharegpt),
    "alpaca": from_dialogues(dialogue_sets.alpaca),
    "dolly": from_dialogues(dialogue_sets.dolly),
    "flan": from_dialogues(dialogue_sets.flan),
    "prompt_completion": from_dialogues(dialogue_sets.prompt_completion),
    "fairytale_stories": {"document": dialogue_sets.fairytale_stories},
    "fairytale_questions": from_dialogues(dialogue_sets.fairytale_questions),
    "messages": {
        "dialogue": _messages_dialogue,
        "prompt": _messages_prompt,
        "document": told(_messages_dialogue),
    },
    "paragraphs": {"document": _own_fields},
    "hf": dict.fromkeys(KINDS, _own_fields),
}
