"""Public sets of dialogues as our rows. Every function says which fields of a raw row it reads; no other field matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llamatrain.data.converting import answered, checked, dialogue, message
from llamatrain.data.files import Row
from llamatrain.data.skipped import LeftOut
from llamatrain.errors import UserError, show

SPOKEN_BY = {  # who speaks, as sets name them -> our role
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
COMPLETIONS = ("completion", "response", "output", "answer")  # what a `prompt` is completed by, as sets name it


def openai_messages(row: Row, source: str) -> Iterator[Row]:
    """Read `messages` as OpenAI's fine-tuning files have them: `role`, and `content` as a text or as parts of text.

    A `developer` is the system. `weight` 0 on all answers but the last means that only the last is trained. Calls of
    tools and pictures are nothing that our models know.
    """
    turns, weights = list[tuple[str, str]](), list[Any]()
    for one in row["messages"]:
        if one.get("tool_calls") or one.get("function_call") or one["role"] in ("tool", "function"):
            raise LeftOut("a message calls a tool")
        turns.append((speaker(one["role"]), _text(one.get("content"))))
        if one["role"] == "assistant":
            weights.append(one.get("weight", 1))
    made: Row = {"messages": dialogue(turns), "source": "openai_messages"}
    if 0 in weights:
        if any(weights[:-1]) or not weights[-1]:
            raise LeftOut("answers before the last are trained and others are not")
        made["loss"] = "last"
    yield made


def sharegpt(row: Row, source: str) -> Iterator[Row]:
    """Read `conversations`: turns with `from` (human, gpt, system, ...) and `value`; `system`, where a row has that."""
    turns = [(speaker(one["from"]), one["value"]) for one in row["conversations"]]
    if row.get("system"):
        turns.insert(0, ("system", row["system"]))
    yield {"messages": dialogue(turns), "source": "sharegpt"}


def alpaca(row: Row, source: str) -> Iterator[Row]:
    """Read Stanford Alpaca's `instruction`, `input` (which it may be about, or "") and `output`."""
    yield {"messages": answered(joined(row["instruction"], row.get("input")), row["output"]), "source": "alpaca"}


def dolly(row: Row, source: str) -> Iterator[Row]:
    """Read Databricks Dolly's `instruction`, `context` (a passage that it is about, or "") and `response`."""
    question = joined(row.get("context"), row["instruction"])
    yield {"messages": answered(question, row["response"]), "source": "dolly"}


def flan(row: Row, source: str) -> Iterator[Row]:
    """Read FLAN's `inputs` and `targets`, both texts."""
    yield {"messages": answered(row["inputs"], row["targets"]), "source": "flan"}


def prompt_completion(row: Row, source: str) -> Iterator[Row]:
    """Read a `prompt` and the first of `completion`, `response`, `output` and `answer` that a row has."""
    completion = next((name for name in COMPLETIONS if isinstance(row.get(name), str)), COMPLETIONS[0])
    yield {"messages": answered(row["prompt"], row[completion]), "source": "prompt_completion"}


def oasst(row: Row, source: str) -> Iterator[Row]:
    """Read an OpenAssistant tree: the best-ranked path from `prompt` through `replies` to the last answer.

    A node has `role`, `text`, `lang`, `deleted` and `rank` (0 is best; unranked ones come last). Only English.
    """
    node: Row = row["prompt"]
    path: list[Row] = []
    if not in_use(node):
        raise LeftOut("the prompt is deleted or not English")
    while True:
        path.append(message(speaker(node["role"]), node["text"]))
        replies = [reply for reply in node.get("replies") or () if in_use(reply)]
        if not replies:
            break
        # The first of equals, and a reply that nobody ranked after all that somebody did.
        node = min(replies, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))
    yield {"messages": dialogue((one["role"], one["content"]) for one in path), "source": "oasst"}


def in_use(node: Row) -> bool:
    """Tell whether a node of an OpenAssistant tree is English and not deleted."""
    return node.get("lang") == "en" and not node.get("deleted")


def fairytale_stories(row: Row, source: str) -> Iterator[Row]:
    """Read a FairytaleQA story: `title` and `text`."""
    yield {"text": row["text"], "source": "fairytales", "meta": {"title": row["title"]}}


def fairytale_questions(row: Row, source: str) -> Iterator[Row]:
    """Read a FairytaleQA question: `context` (a section of a story), `question` and `answer`."""
    question = message("user", joined(row["context"], row["question"]))
    yield {"messages": checked([question, message("assistant", row["answer"])]), "source": "fairytales"}


def speaker(name: object) -> str:
    """Return our role for what a set calls who speaks; UserError where it is not known."""
    if name not in SPOKEN_BY:
        raise UserError(f"found {show(name)} as who speaks, need one of {', '.join(SPOKEN_BY)}")
    return SPOKEN_BY[str(name)]


def joined(*texts: str | None) -> str:
    """Return texts with a blank line between them; empty and absent ones count for nothing."""
    return "\n\n".join(text.strip() for text in texts if text and text.strip())


def _text(content: str | Sequence[Row] | None) -> str:
    """Return a message's text, also where it is given in parts of `type` and `text`."""
    if isinstance(content, str):
        return content
    if any(part.get("type") != "text" for part in content or ()):
        raise LeftOut("a message holds more than text")
    return "".join(part["text"] for part in content or ())
