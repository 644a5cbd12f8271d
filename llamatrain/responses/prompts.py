"""Prompts: read, encoded, and checked against the context."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, zip_longest

from llamatrain.chat import Message, encode_prompt, too_many
from llamatrain.data.kinds import PromptRow
from llamatrain.data.rows import file_fingerprint, placed_rows
from llamatrain.data.skipped import BadRows, warned
from llamatrain.errors import UserError
from llamatrain.responses.config import TOO_LONG
from llamatrain.tokenizer import Tokenizer


@dataclass(frozen=True)
class Prompt:
    """A dialogue that ends with the user's turn; `is_adversarial` says whether the safety model governs it (paper 3.2.3).

    `category` is the risk that an adversarial one is about (its row's `meta.category`), empty where its row names none.
    """

    id: str
    messages: list[Message]
    is_adversarial: bool
    source: str
    tokens: list[int]
    category: str = ""


def prompts_fingerprint(sources: Sequence[str]) -> str:
    """Return one hash of all sources."""
    return hashlib.sha256(" ".join(file_fingerprint(source) for source in sources).encode()).hexdigest()


def _in_turn(sources: Sequence[str], bad: BadRows) -> Iterator[tuple[str, PromptRow]]:
    """Yield (where it stands, row), one row of each source in turn, so that a number of prompts takes from all of them alike."""
    rows = zip_longest(*(placed_rows(source, PromptRow, bad) for source in sources))
    return (pair for pair in chain.from_iterable(rows) if pair is not None)


def _check(sources: Sequence[str], max_prompts: int | None, too_long: str) -> None:
    """Refuse settings that `load_prompts` cannot read by."""
    if too_long not in TOO_LONG:
        raise UserError(f"too_long={too_long}: need one of {', '.join(TOO_LONG)}")
    if max_prompts is not None and max_prompts < 1:
        raise UserError(f"max_prompts={max_prompts}: need 1 or more, or null for all prompts")
    if not sources:
        raise UserError("prompts=[]: need at least one source of prompts")


def _encoded(
    row: PromptRow, where: str, tokenizer: Tokenizer, context: int, room: int, too_long: str
) -> list[int] | None:
    """Return a prompt's ids; where they leave too little room, None for `skip` and a UserError for `stop`."""
    count = too_many(row["messages"], tokenizer, context - room)  # a text far too long is never encoded
    tokens = [] if count else encode_prompt(row["messages"], tokenizer)
    if not count and len(tokens) + room <= context:
        return tokens
    if too_long == "stop":
        raise UserError(
            f"{where}: prompt {row['id']!r} has {count or len(tokens)} tokens and the context is {context}: need room "
            f"for {room} tokens of the response; too_long=skip skips such prompts"
        )
    return None


def _fitting(
    rows: Iterator[tuple[str, PromptRow]],
    encoded: Callable[[PromptRow, str], list[int] | None],
    bad: BadRows,
    adversarial_only: bool,
    left_out: Counter[str],
) -> Iterator[Prompt]:
    """Yield the prompts that fit; count in `left_out` those that are "too long" or "harmless"."""
    seen: set[str] = set()
    for where, row in rows:
        if adversarial_only and not row["is_adversarial"]:
            left_out["harmless"] += 1
        # Two prompts of one id would get the same noise, and as samples of one prompt count twice.
        elif row["id"] in seen:
            twice = f"duplicate id {row['id']!r}, need unique ids: sampling noise is keyed by them"
            bad(UserError(f"{where}: field 'id' of the prompt: {twice}"))
        elif (tokens := encoded(row, where)) is None:
            left_out["too long"] += 1
        else:
            seen.add(row["id"])
            yield Prompt(row["id"], row["messages"], row["is_adversarial"], row["source"], tokens, _category(row))


def _category(row: PromptRow) -> str:
    """Return the risk category that a row names in `meta.category`; empty where it names none."""
    meta = row.get("meta")
    category = meta.get("category") if isinstance(meta, dict) else None
    return category if isinstance(category, str) else ""


def room_for(max_new_tokens: int, context: int) -> int:
    """Return the tokens that a prompt must leave for its response: an eighth of the context, or all of a shorter one."""
    return max(1, min(max_new_tokens, context // 8))


def reworded(prompt: Prompt, messages: list[Message], tokenizer: Tokenizer, longest: int) -> Prompt | None:
    """Return a prompt that asks by other messages, drawn by its own noise; None where they have more tokens than `longest`."""
    if too_many(messages, tokenizer, longest):
        return None
    tokens = encode_prompt(messages, tokenizer)
    return replace(prompt, messages=messages, tokens=tokens) if len(tokens) <= longest else None


def load_prompts(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    context: int,
    max_new_tokens: int,
    max_prompts: int | None,
    too_long: str,
    say: Callable[[str], None],
    bad: BadRows | None = None,
    adversarial_only: bool = False,
    round: int | None = None,
    left_out: Counter[str] | None = None,
) -> list[Prompt]:
    """Read `max_prompts` prompts that fit (None: all), of all sources in turn; `say` how many are too long.

    They are the first ones, in a later `round` of a pipeline the next, and after the last the first again: a model is
    best on the prompts it was tuned on, so that their samples tell little of others.

    A prompt fits when it leaves room in the context for a response: `max_new_tokens`, or an eighth of the context where
    that is less. A response with less room could not end, and not ending is punished. `too_long` says what to do with
    other prompts: `skip` or `stop`. Bad rows, and ids that stand twice, go to `bad`. Where `adversarial_only`, harmless
    prompts are passed over. `left_out` receives how many these are ("harmless"), and how many are "too long".
    """
    _check(sources, max_prompts, too_long)
    most = None if max_prompts is None else max_prompts * (round or 1)
    left_out = Counter() if left_out is None else left_out
    room, bad = room_for(max_new_tokens, context), bad or BadRows()
    encoded = partial(_encoded, tokenizer=tokenizer, context=context, room=room, too_long=too_long)
    fitting = _fitting(_in_turn(sources, bad), encoded, bad, adversarial_only, left_out)
    prompts, skipped = list(islice(fitting, most)), left_out["too long"]
    if not prompts:
        why = f"no prompt leaves room for {room} tokens of a response in the context of {context}"
        if (harmless := left_out["harmless"]) and not skipped:
            why = f"all {harmless:,} are harmless, need prompts with is_adversarial: true"
        raise UserError(f"prompts={', '.join(sources)}: {why}")
    bad.say(say)
    if skipped:
        line = f"{skipped} prompts skipped: no room for {room} tokens of a response within the context of {context}"
        say(warned(line, skipped, skipped + len(prompts)))
    return _of_round(prompts, max_prompts, round or 1)


def _of_round(prompts: list[Prompt], max_prompts: int | None, round: int) -> list[Prompt]:
    """Return those of a round, in the order of the files, around their end: all where a round takes all there are."""
    if max_prompts is None or max_prompts >= len(prompts):
        return prompts
    first = max_prompts * (round - 1)
    return [prompts[(first + i) % len(prompts)] for i in range(max_prompts)]
