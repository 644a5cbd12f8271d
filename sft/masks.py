"""What of a row is trained, as text: runs of tokens that are targets of the loss and runs that are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from llamatrain.chat import B_INST, B_SYS, E_INST, E_SYS, Message, encode_dialogue
from llamatrain.tokenizer import Tokenizer

Run = tuple[str, bool]  # text, and whether it is trained


def dialogues(row: Mapping[str, Any], kind: str) -> dict[str, list[Message]]:
    """Return the dialogues of a row by what they are called: one, of a preference two, of kinds without answers none."""
    if kind == "dialogue":
        return {"": row["messages"]}
    if kind == "preference":
        return {
            side: [*row["messages"], {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")
        }
    return {}


def loss_of(row: Mapping[str, Any], kind: str, loss: str) -> Literal["all", "last"]:
    """Return which answers of a row are trained: of a preference the last, which is scored."""
    last = kind == "preference" or row.get("loss", loss) == "last"
    return "last" if last else "all"


def encoded(messages: list[Message], loss: Literal["all", "last"], tokenizer: Tokenizer) -> list[Run]:
    """Return the runs of a dialogue's tokens."""
    tokens, mask = encode_dialogue(messages, tokenizer, loss)
    runs: list[Run] = []
    for trained, group in groupby(zip(tokens, mask, strict=True), key=lambda pair: pair[1]):
        text = _text([token for token, _ in group], tokenizer)
        runs.append(
            (f" {text}" if trained else text, trained)
        )  # an answer is encoded by itself: its space is not decoded
    return runs


def fault(tokens: Sequence[int], mask: Sequence[bool], tokenizer: Tokenizer) -> str | None:
    """Return what is wrong with a mask: no token of an answer in it, or not the EOS that ends the row; None where it is well."""
    targets = [token for token, trained in zip(tokens, mask, strict=True) if trained]
    if not tokenizer.decode([token for token in targets if token != tokenizer.eos_id]).strip():
        return "no token of an answer would be trained"
    if tokens[-1] != tokenizer.eos_id or not mask[-1]:
        return "the EOS that ends the row lies outside of the loss mask: the model would never stop"
    return None


def by_messages(messages: list[Message], loss: Literal["all", "last"]) -> tuple[list[Run], str | None]:
    """Return the same without a tokenizer: the text of the chat format."""
    runs: list[Run] = []
    prefix, last = "", len(messages) - 1
    for index, message in enumerate(messages):
        if message["role"] == "system":
            prefix = B_SYS + message["content"] + E_SYS
        elif message["role"] == "user":
            runs.append((f"<s>{B_INST} {(prefix + message['content']).strip()} {E_INST}", False))
            prefix = ""
        else:
            runs.append((f" {message['content'].strip()} </s>", loss == "all" or index == last))
    answers = [one["content"] for one in messages if one["role"] == "assistant"]
    trained = answers if loss == "all" else answers[-1:]
    return runs, None if any(text.strip() for text in trained) else "no token of an answer would be trained"


def _text(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return tokens as text, with BOS and EOS written out."""
    named = {tokenizer.bos_id: "<s>", tokenizer.eos_id: "</s>"}
    words = []
    for special, group in groupby(tokens, key=lambda token: named.get(token, "")):
        run = list(group)
        words.append(special * len(run) if special else tokenizer.decode(run))
    return "".join(words)
