"""Rows as tokens, in blocks of columns: dialogues with their loss mask, preferences with both answers.

Imports no torch: processes that tokenize would each hold it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llamatrain.chat import Message, encode_dialogue, too_many, without_oldest_turn
from llamatrain.data import faults
from llamatrain.data.cache import Columns
from llamatrain.data.folds import adversarial_place, conversation_hash
from llamatrain.data.kinds import RATINGS
from llamatrain.tokenizer import Tokenizer

BLOCK = 1000  # rows
PREFERENCES = ("helpfulness", "safety")  # kinds of them, by number
FAULTS = tuple(faults.FAULTS)
NONE = -1  # what stands for no rating, no fault, no label
LABELS = {None: NONE, False: 0, True: 1}
OF_ROWS = {
    "number": np.int64,  # of the raw row, from 1
    "conversation": np.uint64,  # by which rows fall into folds
    "length": np.int32,  # tokens; 0 of what is left out
    "needed": np.int64,  # tokens that it has, or would have at least; of a preference its longer side
}
COLUMNS: dict[str, dict[str, Any]] = {
    "dialogue": {
        "ids": np.uint32,  # those of all rows, one after the other
        "mask": np.bool_,  # which of them are targets of the loss
        **OF_ROWS,
        "targets": np.int32,
        "adversarial": np.float64,  # `rows.adversarial_place`
        "shortened": np.bool_,  # turns were left out
    },
    "preference": {
        "ids": np.int32,  # of each row the chosen side, then the rejected one
        **OF_ROWS,
        "chosen": np.int32,  # tokens of the chosen side
        "prompt": np.int32,  # tokens of the prompt, with which both sides begin
        "kind": np.int8,  # of PREFERENCES
        "rating": np.int8,  # of RATINGS
        "fault": np.int8,  # of FAULTS, too long apart
        "chosen_safe": np.int8,
        "rejected_safe": np.int8,
        "is_adversarial": np.bool_,  # the prompt
    },
}


@dataclass(frozen=True)
class Encoding:
    """How the rows of a kind become tokens.

    What is longer than `max_length` gets no tokens; with `drop_turns` a dialogue loses its oldest turns first, unless an
    instruction stands in them (`meta.instruction`). `loss`: which answers of a dialogue are targets, where the row does
    not say.
    """

    kind: Literal["dialogue", "preference"]
    tokenizer: Tokenizer
    max_length: int
    loss: Literal["all", "last"] = "all"
    drop_turns: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """All but the tokenizer."""
        return {name: getattr(self, name) for name in ("kind", "max_length", "loss", "drop_turns")}

    def empty(self) -> Columns:
        """Return a block without rows."""
        return {name: np.empty(0, dtype) for name, dtype in COLUMNS[self.kind].items()}

    def blocks(self, rows: Iterable[tuple[int, Any]]) -> Iterator[Columns]:
        """Yield the columns of rows, which come with their numbers, some rows at a time."""
        encode = self._dialogue if self.kind == "dialogue" else self._preference
        numbered = iter(rows)
        while group := list(itertools.islice(numbered, BLOCK)):
            lists: dict[str, list[Any]] = {name: [] for name in COLUMNS[self.kind]}
            for number, row in group:
                lists["number"].append(number)
                lists["conversation"].append(conversation_hash(row))
                encode(row, lists)
            yield {name: np.array(lists[name], dtype) for name, dtype in COLUMNS[self.kind].items()}

    def _dialogue(self, row: Mapping[str, Any], lists: dict[str, list[Any]]) -> None:
        messages: list[Message] | None = row["messages"]
        tokens, mask, needed = list[int](), list[bool](), 0
        # Without its first turn a row of Ghost Attention would train an answer that obeys what nobody said.
        drops = self.drop_turns and not _instructed(row)
        while messages is not None:  # as it is, then without its oldest turn, and so on
            needed, tokens, mask = self._encoded(messages, row.get("loss", self.loss))
            if tokens:
                break
            messages = without_oldest_turn(messages) if drops else None
        lists["ids"] += tokens
        lists["mask"] += mask
        lists["length"].append(len(tokens))
        lists["needed"].append(needed)
        lists["targets"].append(sum(mask))
        lists["adversarial"].append(adversarial_place(row))
        lists["shortened"].append(messages is not None and len(messages) < len(row["messages"]))

    def _preference(self, row: Mapping[str, Any], lists: dict[str, list[Any]]) -> None:
        why = faults.fault(row)
        sides = (
            [] if why else [[*row["messages"], {"role": "assistant", "content": row[side]}] for side in faults.SIDES]
        )
        encoded = [self._encoded(messages, "last") for messages in sides]
        fits = bool(encoded) and all(tokens for _, tokens, _ in encoded)
        chosen, rejected = (tokens for _, tokens, _ in encoded) if fits else ([], [])
        lists["ids"] += [*chosen, *rejected]
        lists["length"].append(len(chosen) + len(rejected))
        lists["chosen"].append(len(chosen))
        lists["prompt"].append(encoded[0][2].index(True) if fits else 0)
        lists["needed"].append(max((needed for needed, _, _ in encoded), default=0))
        lists["kind"].append(PREFERENCES.index(row["kind"]))
        lists["rating"].append(RATINGS.index(row["rating"]) if "rating" in row else NONE)
        lists["fault"].append(NONE if why is None else FAULTS.index(why))
        lists["chosen_safe"].append(LABELS[row.get("chosen_safe")])
        lists["rejected_safe"].append(LABELS[row.get("rejected_safe")])
        lists["is_adversarial"].append(bool(row.get("meta", {}).get("is_adversarial", row["kind"] == "safety")))

    def _encoded(self, messages: list[Message], loss: Literal["all", "last"]) -> tuple[int, list[int], list[bool]]:
        """Return how many tokens a dialogue needs, and these with their mask where they fit."""
        needed = too_many(messages, self.tokenizer, self.max_length)  # what is far too long is never encoded
        if needed is None:
            tokens, mask = encode_dialogue(messages, self.tokenizer, loss)
            if len(tokens) <= self.max_length:
                return len(tokens), tokens, mask
            needed = len(tokens)
        return needed, [], []


def _instructed(row: Mapping[str, Any]) -> bool:
    """Tell whether an instruction for the whole dialogue stands in the first turn, as in the rows of `gatt`."""
    meta = row.get("meta")
    return isinstance(meta, Mapping) and bool(meta.get("instruction"))
