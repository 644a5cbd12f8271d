r"""The released Llama 2 chat format: messages to tokens, and which of them are trained.

    <s>[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST] {answer} </s><s>[INST] {user} [/INST]

A turn is encoded as `[INST] {user} [/INST]` followed by `{answer} `, each on its own. SentencePiece puts a space before
a text, so the second gives ` {answer} `, and as no piece of a Llama vocabulary crosses from `]` into a space, the ids
are those that the released code gets for the whole turn. This way the prompt is a prefix of the dialogue by
construction, whatever the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llamatrain.errors import UserError, show

if TYPE_CHECKING:
    from llamatrain.tokenizer import Tokenizer

Message = dict[str, str]

B_INST, E_INST = "[INST]", "[/INST]"
B_SYS, E_SYS = "<<SYS>>\n", "\n<</SYS>>\n\n"
LONG = 100_000  # characters
TAGS = (B_INST, E_INST, B_SYS.strip(), E_SYS.strip())


class TagError(UserError):
    """A message holds a tag of the chat format and could pose as a turn or system message; released code refuses it."""


def check_messages(messages: Any, where: str, ends: Literal["user", "assistant"] | None = None) -> None:
    """Raise UserError, starting with `where`, unless `messages` are a dialogue whose last role is `ends`.

    A dialogue is an optional system message, then user and assistant in turns. Raises TagError for tags, as the
    released code does for all that it is given; a last answer, which the model wrote or learns, may hold them.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: found {show(messages)}, need a list of messages with `role` and `content`")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise UserError(f"{where}[{index}]: found {show(message)}, need an object with `role` and `content`")
        content = message.get("content")
        if not isinstance(content, str):
            raise UserError(f"{where}[{index}].content: found {show(content)}, need a text")
        if not _is_unicode(content):
            raise UserError(f"{where}[{index}].content: found an unpaired surrogate, need valid Unicode")
    first = messages[0].get("role") == "system"  # where the turns begin, 0 or 1
    for index, message in enumerate(messages[first:], start=int(first)):
        role, needed = message.get("role"), "user" if (index - first) % 2 == 0 else "assistant"
        if role != needed:
            note = " (a system message may only come first)" if role == "system" else ""
            raise UserError(f"{where}[{index}].role: found {show(role)}, need {needed!r}{note}")
        if role == "user" and not message["content"].strip():
            raise UserError(f"{where}[{index}].content: found {show(message['content'])}, need a text of the user")
    last = messages[-1]["role"]
    if last == "system":
        raise UserError(f"{where}: found a system message only, need a user message after it")
    if ends is not None and last != ends:
        raise UserError(f"{where}: ends with {last!r}, need to end with {ends!r}")
    # All but a last answer, which the model wrote or learns to write: it cannot pose as the user's or our words.
    for index, message in enumerate(messages[:-1] if last == "assistant" else messages):
        tag = next((tag for tag in TAGS if tag in message["content"]), None)
        if tag is not None:
            raise TagError(
                f"{where}[{index}].content: holds the chat format's tag {tag!r}, which messages may not contain"
            )


def encode_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a dialogue that ends with the user's turn, up to and with the last `[/INST]`."""
    check_messages(list(messages), "messages", ends="user")
    tokens, _ = _encode(messages, tokenizer)
    return tokens


def encode_dialogue(
    messages: Sequence[Message], tokenizer: Tokenizer, loss: Literal["all", "last"] = "all"
) -> tuple[list[int], list[bool]]:
    """Return the ids of a dialogue that ends with an answer, and for each whether it is a target of the loss.

    Targets are the tokens of the answers, with the space and EOS that end them; `loss="last"` keeps those of the last
    answer only.
    """
    if loss not in ("all", "last"):
        raise UserError(f"loss={loss!r}: need 'all' (every answer) or 'last' (the last answer)")
    check_messages(list(messages), "messages", ends="assistant")
    tokens, answers = _encode(messages, tokenizer)
    trained = answers if loss == "all" else answers[-1:]
    mask = [False] * len(tokens)
    for start, end in trained:
        mask[start:end] = [True] * (end - start)
    return tokens, mask


def too_many(messages: Sequence[Message], tokenizer: Tokenizer, limit: int) -> int | None:
    """Return how many ids these messages have at least where that is more than `limit`, without encoding them; else None."""
    if sum(len(message["content"]) for message in messages) < LONG:  # encoded in no time
        return None
    fewest = sum(tokenizer.fewest(message["content"].strip()) for message in messages)
    return fewest if fewest > limit else None


def decode_response(tokens: Iterable[int], tokenizer: Tokenizer) -> str:
    """Return the text of generated tokens: up to the first EOS, without surrounding space."""
    kept = []
    for token in tokens:
        if token == tokenizer.eos_id:
            break
        kept.append(token)
    return tokenizer.decode(kept).strip()


def without_oldest_turn(messages: Sequence[Message]) -> list[Message] | None:
    """Return the dialogue without its oldest turn, the system message kept; None where no other turn is left."""
    first = int(messages[0]["role"] == "system")
    if len(messages) - first <= 2:
        return None
    return [*messages[:first], *messages[first + 2 :]]


def _encode(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids and the span (start, end) of each answer."""
    tokens: list[int] = []
    answers: list[tuple[int, int]] = []
    prefix = ""
    for message in messages:
        content = message["content"]
        if message["role"] == "system":
            prefix = B_SYS + content + E_SYS
        elif message["role"] == "user":
            # BOS before every turn, EOS after every answer: so in the released code, not once a dialogue.
            tokens += tokenizer.encode(f"{B_INST} {(prefix + content).strip()} {E_INST}", bos=True)
            prefix = ""
        else:
            start = len(tokens)
            tokens += tokenizer.encode(f"{content.strip()} ", eos=True)
            answers.append((start, len(tokens)))
    return tokens, answers


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
