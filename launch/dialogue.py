"""A dialogue with a model: its history, and answers that stream in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from llamatrain.errors import UserError

if TYPE_CHECKING:
    from llamatrain.model.transformer import Transformer
    from llamatrain.settings import Sampling
    from llamatrain.tokenizer import Tokenizer

HALF = "\ufffd"  # what bytes decode to that are not yet a whole character


class Chat:
    """A dialogue with a model, as long as its context holds."""

    def __init__(
        self, name: str, model: Transformer, tokenizer: Tokenizer, sampling: Sampling, system: str | None = None
    ) -> None:
        """Begin with an empty history."""
        self.name, self.model, self.tokenizer, self.sampling, self.system = name, model, tokenizer, sampling, system
        # What an answer should find free at least; where the context is small, a quarter of it.
        self.room = min(sampling.max_new_tokens, model.config.max_seq_len // 4)
        self.turns: list[dict[str, str]] = []
        self.finished = True  # whether the last answer ended by itself

    def forget(self) -> None:
        """Begin a new dialogue."""
        self.turns = []

    def ask(self, text: str) -> int:
        """Add the user's turn; return how many of the oldest exchanges had to be dropped to make room.

        UserError where the text alone does not fit, or holds a tag of the chat format; the history is unchanged then.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        dropped = 0
        while len(self._encoded(turns)) + self.room > self.model.config.max_seq_len:
            if len(turns) == 1:
                if len(self._encoded(turns)) < self.model.config.max_seq_len:
                    break  # less room than wished for, but some
                context = self.model.config.max_seq_len
                raise UserError(f"too long: with it the prompt has {len(self._encoded(turns))} tokens of {context}")
            turns, dropped = turns[2:], dropped + 1
        self.turns = turns
        return dropped

    def answer(self) -> Iterator[str]:
        """Yield the answer piece by piece; what was yielded is in the history, even if the caller stops early."""
        from llamatrain.generation import stream

        prompt, tokens, shown = self._encoded(self.turns), list[int](), ""
        self.turns.append({"role": "assistant", "content": ""})
        self.finished = False
        key = ("chat", len(self.turns))
        for token in stream(self.model, prompt, key, self.sampling, self.tokenizer.eos_id):
            self.finished = token == self.tokenizer.eos_id
            tokens.append(token)
            text = self.tokenizer.decode(tokens).lstrip()
            piece = text[len(shown) :]
            if piece and not (text.endswith(HALF) and not self.finished):
                shown = text
                self.turns[-1]["content"] = shown
                yield piece

    def answered(self) -> None:
        """Count an answer that was stopped before it began as an empty one: the next turn is the user's."""
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.append({"role": "assistant", "content": ""})

    def _encoded(self, turns: list[dict[str, str]]) -> list[int]:
        from llamatrain.chat import TAGS, encode_prompt

        def untagged(turn: dict[str, str]) -> dict[str, str]:
            content = turn["content"]
            for tag in TAGS if turn["role"] == "assistant" else ():  # a model may babble them; then they are no turns
                content = content.replace(tag, "")
            return {**turn, "content": content}

        system = [{"role": "system", "content": self.system}] if self.system else []
        return encode_prompt([*system, *map(untagged, turns)], self.tokenizer)


def ask_all(chats: Sequence[Chat], text: str) -> int:
    """Ask all of them; return how many exchanges were dropped at most. UserError where one cannot be asked: then none is."""
    before = [chat.turns for chat in chats]
    try:
        return max(chat.ask(text) for chat in chats)
    except UserError:
        for chat, turns in zip(chats, before, strict=True):
            chat.turns = turns
        raise
