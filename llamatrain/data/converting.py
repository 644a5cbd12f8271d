"""What adapters are made of: somebody's turns as messages, and what else a dialogue or a preference gives.

An adapter is a function of one raw row and the source's name that yields our rows, which are checked afterwards. Of a
row that looks as it should but gives nothing it raises LeftOut with the reason, always in the same words: such rows are
counted by it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from llamatrain.chat import TAGS
from llamatrain.data.faults import fault
from llamatrain.data.files import Row
from llamatrain.data.kinds import RATINGS
from llamatrain.data.skipped import LeftOut
from llamatrain.errors import UserError

Convert = Callable[[Row, str], Iterator[Row]]  # somebody else's row -> ours, which are checked afterwards

SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


def message(role: str, content: str) -> Row:
    """Return a message without space around it."""
    return {"role": role, "content": content.strip()}


def asked(question: str) -> list[Row]:
    """Return the messages of a question alone; LeftOut where there is none, or it could pose as a turn of its own."""
    return checked([message("user", question)])


def answered(question: str, answer: str) -> list[Row]:
    """Return a question and its answer; LeftOut where either is empty."""
    return dialogue([("user", question), ("assistant", answer)])


def dialogue(turns: Iterable[tuple[str, str]]) -> list[Row]:
    """Return the messages of (role, content) up to the last answer; LeftOut where they are no dialogue of ours.

    What is asked after the last answer is dropped: nothing can be learned from it. An empty system message is none.
    """
    messages = [message(role, content) for role, content in turns]
    if messages and messages[0] == message("system", ""):
        messages = messages[1:]
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise LeftOut("there is no answer")
    if not all(one["content"] for one in messages):
        raise LeftOut("a message is empty")
    return checked(messages)


def checked(messages: list[Row]) -> list[Row]:
    """Return messages; LeftOut where user and assistant do not take turns, or a tag of the chat format stands in one.

    A last answer may hold a tag, which reads as nothing there. An empty one may stand: of a pair it is left out later.
    """
    first = int(messages[0]["role"] == "system")
    roles = [one["role"] for one in messages[first:]]
    if not roles or any(role != ("user", "assistant")[turn % 2] for turn, role in enumerate(roles)):
        raise LeftOut("user and assistant do not take turns, the user first")
    if any(not one["content"] for one in messages if one["role"] == "user"):
        raise LeftOut("a message is empty")
    before = messages[:-1] if roles[-1] == "assistant" else messages
    if any(tag in one["content"] for one in before for tag in TAGS):
        raise LeftOut("a message holds a tag of the chat format")
    return messages


def rated(strength: float, thresholds: tuple[float, float, float]) -> str:
    """Return the rating of a preference of some strength; from which on it is significantly, plainly, slightly better."""
    reached = sum(strength < threshold for threshold in thresholds)
    return RATINGS[reached]


def ranked_pairs(
    messages: Sequence[Row], answers: Sequence[tuple[float, str]], best_only: bool = False
) -> Iterator[Row]:
    """Yield (chosen, rejected, by how much) of answers with a score, the best first; equal scores make no pair.

    `best_only`: the best against every other, where all pairs would be too many.
    """
    order = sorted(answers, key=lambda answer: -answer[0])
    pairs = False
    for first, (high, chosen) in enumerate(order[:1] if best_only else order):
        for low, rejected in order[first + 1 :]:
            if high > low:
                pairs = True
                yield {"messages": list(messages), "chosen": chosen, "rejected": rejected, "apart": high - low}
    if not pairs:
        raise LeftOut("no two answers are ranked differently")


def identity(messages: Sequence[Row]) -> str:
    """Return a short hash of messages, for ids."""
    text = "\x00".join(f"{one['role']}\x01{one['content']}" for one in messages)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- what else rows give -----------------------------------------------------------------------------------------


def from_dialogues(convert: Convert) -> dict[str, Convert]:
    """Return the adapters of a set of dialogues: these, what is asked last in each, and each written out as a text."""

    def prompt(row: Row, source: str) -> Iterator[Row]:
        for made in convert(row, source):
            yield _prompt(made["messages"][:-1], made["source"], bool(made.get("is_adversarial")))

    return {"dialogue": convert, "prompt": prompt, "document": told(convert)}


def from_preferences(convert: Convert) -> dict[str, Convert]:
    """Return the adapters of a set of preferences: these, what was asked, and the answer that was liked best.

    An answer that is empty, or unsafe, is none to learn from.
    """

    def prompt(row: Row, source: str) -> Iterator[Row]:
        for made in itertools.islice(convert(row, source), 1):
            yield _prompt(made["messages"], made["source"], _is_adversarial(made))

    def best(row: Row, source: str) -> Iterator[Row]:
        liked = (made for made in convert(row, source) if fault(made) is None and made.get("chosen_safe") is not False)
        made = next(liked, None)
        if made is None:
            raise LeftOut("no answer was liked that is safe and not empty")
        messages = [*made["messages"], message("assistant", made["chosen"])]
        yield {
            "messages": messages,
            "source": made["source"],
            "is_adversarial": _is_adversarial(made),
            "loss": "last",
        }

    return {"preference": convert, "prompt": prompt, "dialogue": best, "document": told(best)}


def told(convert: Convert) -> Convert:
    """Return the adapter of documents that write out the dialogues of another as text."""

    def document(row: Row, source: str) -> Iterator[Row]:
        for made in convert(row, source):
            turns = (f"{SPEAKERS[turn['role']]}: {turn['content']}" for turn in made["messages"])
            yield {"text": "\n\n".join(turns), "source": made.get("source")}

    return document


def _prompt(messages: list[Row], source: str, is_adversarial: bool) -> Row:
    named = f"{source}-{identity(messages)}"
    return {"id": named, "messages": messages, "source": source, "is_adversarial": is_adversarial}


def _is_adversarial(made: Row) -> bool:
    return bool(made.get("meta", {}).get("is_adversarial", made["kind"] == "safety"))


def whole(value: object, *needed: int) -> int:
    """Return a whole number that must be one of some; UserError else (true and false are none)."""
    if isinstance(value, bool) or value not in needed:
        raise UserError(f"found {value!r}, need one of {', '.join(map(str, needed))}")
    return int(str(value))
