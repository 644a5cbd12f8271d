"""Answers to prompts that a program makes itself: in the chat format, or plain text that a pretrained model goes on from.

As in `sampling`, they are written as chunks and follow from the seed, the prompt's id and the sample's number alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from llamatrain import checkpoint
from llamatrain.chat import Message, decode_response, encode_prompt, too_many
from llamatrain.data.rows import file_fingerprint
from llamatrain.errors import UserError
from llamatrain.model.config import load_config
from llamatrain.progress import Progress
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.responses.config import AUTO, CHAT, TEXT, AnswersConfig
from llamatrain.responses.models import loaded_once, shared_tokenizer
from llamatrain.responses.prompts import Prompt, room_for
from llamatrain.responses.rollouts import sample_rollouts
from llamatrain.run import Run
from llamatrain.text_files import read_json

R = TypeVar("R", bound=Mapping[str, object])  # a kind of rows, a TypedDict


@dataclass(frozen=True)
class Answer:
    """What a model wrote. In the plain format the space that it begins with is part of it."""

    text: str
    finished: bool
    tokens: int


def format_of(folder: Path) -> str:
    """Return the format that a checkpoint knows: `text` of a pretrained one, or of one elsewhere without a chat template."""
    if (folder / "llamatrain.json").is_file():
        return TEXT if checkpoint.lineage(folder).get("program") == "pretrain" else CHAT
    known, tokenizer = (folder / "chat_template.jinja").is_file(), folder / "tokenizer_config.json"
    if not known and tokenizer.is_file():
        known = bool(read_json(tokenizer, dict[str, Any]).get("chat_template"))
    return CHAT if known else TEXT


class Answerer:
    """A checkpoint that answers; `noise` names what its tokens are drawn by. All ranks make one together."""

    def __init__(self, run: Run, folder: Path, cfg: AnswersConfig, noise: str) -> None:
        self.run, self.folder, self.cfg = run, folder, cfg
        self.form = format_of(folder) if cfg.format == AUTO else cfg.format
        self.tokenizer = shared_tokenizer({"checkpoint": folder}, cfg.tokenizer)
        self.context = load_config(folder)[0].max_seq_len
        self.sampling = cfg.sampling.seeded(run.config.seed, noise)
        # Loaded when the first answer is asked for: a finished run loads none.
        self._model = partial(loaded_once([folder], cfg.dtype), folder, scalar=False)

    def settings(self) -> dict[str, Any]:
        """Return what answers depend on beside the checkpoint and their prompts."""
        cfg, tokenizer = self.cfg, self.cfg.tokenizer
        if tokenizer and Path(tokenizer).is_file():
            tokenizer = file_fingerprint(tokenizer)
        sampling, seed = vars(cfg.sampling), self.run.config.seed
        return {"format": self.form, "sampling": sampling, "seed": seed, "dtype": cfg.dtype, "tokenizer": tokenizer}

    def prompt(self, id: str, messages: Sequence[Message]) -> Prompt | None:
        """Return an encoded prompt; None where it leaves no room for an answer.

        The plain format joins the messages by empty lines, without the space that the last may end in: it belongs to the
        next word.
        """
        room = self.context - room_for(self.sampling.max_new_tokens, self.context)
        if too_many(messages, self.tokenizer, room):
            return None
        if self.form == TEXT:
            tokens = self.tokenizer.encode("\n\n".join(m["content"] for m in messages).rstrip(" "), bos=True)
        else:
            tokens = encode_prompt(messages, self.tokenizer)
        return Prompt(id, list(messages), False, "", tokens) if len(tokens) <= room else None

    def prompts(self, asked: Iterable[tuple[str, Sequence[Message]]]) -> list[Prompt]:
        """Return (id, messages) as prompts; UserError where one leaves no room for an answer."""
        found = []
        for id, messages in asked:
            prompt = self.prompt(id, messages)
            if prompt is None:
                raise UserError(
                    f"prompt {id!r} is too long for the context of {self.context} tokens: need room for an answer"
                )
            found.append(prompt)
        return found

    def answer(
        self,
        prompts: Sequence[Prompt],
        numbers: Sequence[int],
        bar: Progress,
        temperatures: Sequence[float] | None = None,
    ) -> list[Answer]:
        """Return an answer to each prompt, as the sample of that number, at its own temperature where there are several."""
        rollouts = sample_rollouts(
            self._model(),
            prompts,
            numbers,
            self.sampling,
            self.tokenizer,
            self.cfg.generation_batch_size,
            lambda _: bar.update(1),
            temperatures,
            on_step=self.run.interrupt,
        )
        return [Answer(self._text(r.prompt, r.tokens), r.finished, len(r.tokens)) for r in rollouts]

    def _text(self, prompt: Prompt, tokens: list[int]) -> str:
        if self.form == CHAT:
            return decode_response(tokens, self.tokenizer)
        # By itself a text loses the space before its first word.
        before, whole = self.tokenizer.decode(prompt.tokens), self.tokenizer.decode([*prompt.tokens, *tokens])
        return whole.removeprefix(before).rstrip()

    def chunks(
        self,
        prompts: Sequence[Prompt],
        size: int,
        kind: type[R],
        rows_of: Callable[[range, Progress], list[R]],
        item_rows: int = 1,
        answers: int = 1,
        rest: Any = None,
    ) -> list[R]:
        """Make the rows of all prompts, an item each, by `rows_of` and return them in order, on all ranks.

        `answers` are those that an item takes, for the progress bar; `rest` is what else the rows depend on.
        """
        asked = hashlib.sha256(json.dumps([[p.id, p.tokens] for p in prompts]).encode()).hexdigest()
        key = chunk_key(
            {"checkpoint": self.folder}, [], sampling=vars(self.sampling), rest=[asked, self.cfg.dtype, rest]
        )
        chunks = Chunks(self.run, key, len(prompts), size, kind, item_rows)
        with self.run.progress(chunks.missing() * answers, "sampling", "answers") as bar:
            if not chunks.make(lambda items: rows_of(items, bar), bar, answers):
                self.run.stop(0)
        return chunks.gathered()
