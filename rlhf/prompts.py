"""Prompts: read, encoded, and checked against the context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llamatrain.chat import Message, encode_prompt
from llamatrain.data.rows import read_rows
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

TOO_LONG = ("skip", "stop")


@dataclass(frozen=True)
class Prompt:
    """A dialogue that ends with the user's turn; `safety` says whether it is a safety prompt (paper 3.2.3)."""

    id: str
    messages: list[Message]
    safety: bool
    source: str
    tokens: list[int]


def load_prompts(
    path: str | Path, tokenizer: Tokenizer, context: int, limit: int | None, too_long: str
) -> tuple[list[Prompt], int]:
    """Read the first `limit` prompts that fit (None: all), and how many were passed over as too long.

    A prompt fits when it leaves room in the context for at least one token of the response; `too_long` says what to do
    with the others: `skip` or `stop`.
    """
    if too_long not in TOO_LONG:
        raise UserError(f"too_long={too_long}: need one of {', '.join(TOO_LONG)}")
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: need 1 or more, or null for all prompts")
    prompts: list[Prompt] = []
    seen: set[str] = set()
    skipped = 0
    for row in read_rows(path, "prompt"):
        if limit is not None and len(prompts) == limit:
            break
        if row["id"] in seen:
            raise UserError(
                f"prompts={path}: the id {row['id']!r} stands twice; the noise of sampling needs ids that differ"
            )
        tokens = encode_prompt(row["messages"], tokenizer)
        if len(tokens) >= context:
            if too_long == "stop":
                raise UserError(
                    f"prompts={path}: prompt {row['id']!r} has {len(tokens)} tokens and the context is {context}; "
                    f"too_long=skip passes over such prompts"
                )
            skipped += 1
            continue
        seen.add(row["id"])
        prompts.append(Prompt(row["id"], row["messages"], bool(row["safety"]), row["source"], tokens))
    if not prompts:
        raise UserError(f"prompts={path}: holds no prompt that fits into the context of {context} tokens")
    return prompts, skipped
