"""Dialogues packed into rows: what supervised fine-tuning trains on.

Shapes: B rows of a micro-batch, T = max_length tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llamatrain.chat import Message, encode_dialogue, too_many, without_oldest_turn
from llamatrain.data.batches import Batches
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.order import Places, mix, permuted, shuffled
from llamatrain.data.packing import Batch, Sample, collate, pack, with_weight
from llamatrain.data.sequences import TokenBatches
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

TooLong = Literal["skip", "stop", "drop_turns"]


class DialogueBatches(Batches):
    """Dialogues, tokenized once and packed into rows of `max_length` tokens, each a segment of its own (`isolate`).

    The packing is fixed by the seed; the packed rows are shuffled in each epoch. A row with the field `loss`
    overrides `loss`. `too_long` says what becomes of a dialogue longer than max_length: `skip` it, `stop`, or
    `drop_turns`, which leaves out its oldest turns and skips it only if its last one alone is too long. `counts` has
    dialogues, kept, skipped, shortened, rows, tokens, target_tokens. `replay_fraction` of all rows are sequences of the
    corpus `replay` instead (a small model forgets without them).
    """

    def __init__(
        self,
        dialogues: Iterable[DialogueRow],
        tokenizer: Tokenizer,
        *,
        max_length: int,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        too_long: TooLong = "skip",
        isolate: bool = True,
        loss: Literal["all", "last"] = "all",
        replay: str | Path | None = None,
        replay_fraction: float = 0.0,
    ) -> None:
        super().__init__(batch_size, micro_batch_size, seed, rank, world_size, skip=())
        if too_long not in ("skip", "stop", "drop_turns"):
            raise UserError(f"too_long={too_long!r}: need skip, stop or drop_turns")
        if not 0 <= replay_fraction < 1 or (replay_fraction > 0) != (replay is not None):
            raise UserError(
                f"replay={replay}, replay_fraction={replay_fraction}: need a corpus and a fraction below 1, "
                "or null and 0"
            )
        self.max_length, self.isolate = max_length, isolate
        self._fraction = Fraction(replay_fraction).limit_denominator(10_000)  # exact: 0.1 is no binary number
        self._tokenize(dialogues, tokenizer, too_long, loss)
        self._pack()
        self.replay = None
        if replay is not None:
            self.replay = TokenBatches(
                replay,
                seq_len=max_length,
                batch_size=1,
                micro_batch_size=1,
                seed=mix(seed, 1),
                tokenizer=tokenizer,
                isolate=isolate,
            )
        self.steps_per_epoch = len(self._members) / (batch_size * (1 - float(self._fraction)))
        digest = hashlib.sha256(self._ids.tobytes() + self._mask.tobytes() + self._starts.tobytes())
        digest.update(f"{self.replay.fingerprint if self.replay else None} {self._fraction}".encode())
        self.fingerprint = digest.hexdigest()

    def _tokenize(
        self, dialogues: Iterable[DialogueRow], tokenizer: Tokenizer, too_long: TooLong, loss: Literal["all", "last"]
    ) -> None:
        ids: list[NDArray[np.uint32]] = []
        masks: list[NDArray[np.bool_]] = []
        read = shortened = 0
        for row in dialogues:
            read += 1
            messages: list[Message] | None = row["messages"]
            while messages is not None:  # as it is, then without its oldest turn, and so on
                count = too_many(messages, tokenizer, self.max_length)
                tokens, mask = ([], []) if count else encode_dialogue(messages, tokenizer, row.get("loss", loss))
                if not count and len(tokens) <= self.max_length:
                    ids.append(np.array(tokens, dtype=np.uint32))
                    masks.append(np.array(mask, dtype=bool))
                    shortened += len(messages) < len(row["messages"])
                    break
                if too_long == "stop":
                    raise UserError(
                        f"dialogue {read} ({messages[0]['content'][:40]!r}...) has {count or len(tokens)} tokens, more than "
                        f"max_length={self.max_length}: need a longer max_length, or too_long=skip or drop_turns"
                    )
                messages = without_oldest_turn(messages) if too_long == "drop_turns" else None
        if not ids:
            raise UserError(
                f"none of {read} dialogues fits into max_length={self.max_length} tokens: need at least one"
            )
        self._ids, self._mask = np.concatenate(ids), np.concatenate(masks)
        self._starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])])
        self.counts = {
            "dialogues": read,
            "kept": len(ids),
            "skipped": read - len(ids),
            "shortened": shortened,
            "tokens": len(self._ids),
            "target_tokens": int(self._mask.sum()),
        }

    def _pack(self) -> None:
        """Pack into rows; the seed decides between dialogues of equal length."""
        count = len(self._starts) - 1
        order = permuted(np.arange(count), count, self.seed)  # `pack` keeps the given order among equals
        lengths = np.diff(self._starts)[order]
        self._members = [order[row] for row in pack(lengths.tolist(), self.max_length)]
        self.counts["rows"] = len(self._members)

    def _count(self) -> int:
        return len(self._members)

    def _rows_at(self, places: Places) -> Batch:
        # Of the first p places of the endless series, floor(p * fraction) are corpus sequences.
        over, under = self._fraction.numerator, self._fraction.denominator
        replays_before = places * over // under
        replayed = (places + 1) * over // under > replays_before
        rows = np.full(len(places), -1, dtype=np.int64)
        rows[~replayed] = shuffled((places - replays_before)[~replayed], len(self._members), self.seed)
        batch = self._packed(rows)
        if self.replay is None or not replayed.any():
            return batch
        # So many replays came before each: they take the corpus's sequences in its own order, one after the other.
        sequences = self.replay.sequences_at(replays_before[replayed])
        slots = torch.from_numpy(np.flatnonzero(replayed))
        columns = [name for name in batch if name != "weight"]
        return with_weight({name: batch[name].index_copy(0, slots, sequences[name]) for name in columns})

    def _eval_rows(self, rows: range) -> Batch:
        return self._packed(np.asarray(rows, dtype=np.int64))

    def _packed(self, rows: Places) -> Batch:
        """Return packed rows by number, an empty row for -1 and for what is missing from a micro-batch."""
        samples: list[Sample] = []
        members: list[list[int]] = [[] for _ in range(self.micro_batch_size)]
        for slot, row in enumerate(rows.tolist()):
            if row < 0:
                continue
            for index in self._members[row].tolist():
                span = slice(self._starts[index], self._starts[index + 1])
                members[slot].append(len(samples))
                samples.append(Sample(self._ids[span].tolist(), self._mask[span].tolist()))
        return collate(samples, members, self.max_length, self.isolate)[0]
