"""Dialogues packed into rows: what supervised fine-tuning trains on.

Shapes: B rows of a micro-batch, T = max_length tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from llamatrain.data.batches import Batches
from llamatrain.data.cache import UNKEPT, Blocks, Cache
from llamatrain.data.encoding import Encoding
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.order import Places, mix, permuted, shuffled
from llamatrain.data.packing import Batch, Sample, collate, fill, with_weight
from llamatrain.data.sequences import TokenBatches
from llamatrain.data.tokenized import Rows, of_rows
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

TooLong = Literal["skip", "stop", "drop_turns"]


class DialogueBatches(Batches):
    """Dialogues, tokenized once and packed into rows of `max_length` tokens, each a segment of its own (`isolate`).

    They are rows that are tokenized here and held in memory, or were (`tokenized`, with the same settings). The packing is
    fixed by the seed and kept in `cached`; the packed rows are shuffled in each epoch. A row with the field `loss`
    overrides `loss`. `too_long` says what becomes of a dialogue longer than max_length: `skip` it, `stop`, or
    `drop_turns`, which leaves out its oldest turns and skips it only if its last one alone is too long, or if its first
    one holds an instruction for all (`meta.instruction`). `counts` has dialogues, kept, skipped, shortened, rows, tokens, target_tokens. `replay_fraction` of all rows are sequences of the
    corpus `replay` instead (a small model forgets without them).
    """

    def __init__(
        self,
        dialogues: Rows | Iterable[DialogueRow],
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
        cached: Cache = UNKEPT,
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
        if not isinstance(dialogues, Rows):
            how = Encoding("dialogue", tokenizer, max_length, loss, drop_turns=too_long == "drop_turns")
            dialogues = of_rows(dialogues, how)
        # What has no key cannot be told from other rows of that number, whose packing would be taken.
        assert cached.folder is None or all(table.key for table in dialogues.tables)
        self._dialogues = self._kept(dialogues, too_long)
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
        beside = f"{self.replay.fingerprint if self.replay else None} {self._fraction}"
        about = {"packed": self._dialogues.key, "max_length": max_length, "seed": seed, "beside": beside}
        packed = cached.table(about, partial(self._pack, beside))
        self._members, self._ends = packed["members"], packed["ends"]
        self.fingerprint: str = packed.notes["fingerprint"]
        self.counts["rows"] = len(self._ends)
        self.steps_per_epoch = len(self._ends) / (batch_size * (1 - float(self._fraction)))

    def _kept(self, dialogues: Rows, too_long: TooLong) -> Rows:
        """Return the dialogues that are trained on; count them, and those that are too long."""
        lengths = dialogues.column("length")
        left_out = np.flatnonzero(lengths == 0)
        if too_long == "stop" and len(left_out):
            needed = dialogues.column("needed")[left_out[0]]
            raise UserError(
                f"{dialogues.where(left_out[0])} has {needed} tokens, more than max_length={self.max_length}: "
                "need a longer max_length, or too_long=skip or drop_turns"
            )
        if len(left_out) == len(dialogues):
            raise UserError(
                f"none of {len(dialogues)} dialogues fits into max_length={self.max_length} tokens: need at least one"
            )
        self.counts = {
            "dialogues": len(dialogues),
            "kept": len(dialogues) - len(left_out),
            "skipped": len(left_out),
            "shortened": int(dialogues.column("shortened").sum()),
            "tokens": int(lengths.sum(dtype=np.int64)),
            "target_tokens": int(dialogues.column("targets").sum(dtype=np.int64)),
        }
        return dialogues.take(lengths > 0)

    def _pack(self, beside: str) -> Blocks:
        """Pack into rows, where the seed decides between dialogues of equal length; note a hash of what is trained."""
        lengths = self._dialogues.column("length").astype(np.int64)
        order = permuted(np.arange(len(lengths)), len(lengths), self.seed)  # `fill` keeps the given order among equals
        members, ends = fill(lengths[order], self.max_length)
        digest = hashlib.sha256()
        for column in ("ids", "mask"):
            for table, span in self._dialogues.spans():
                digest.update(table[column][span].data)
        digest.update(np.cumsum(np.concatenate([[0], lengths])).data)
        digest.update(beside.encode())
        yield {"members": order[members], "ends": ends}
        return {"fingerprint": digest.hexdigest()}

    def _count(self) -> int:
        return len(self._ends)

    def _rows_at(self, places: Places) -> Batch:
        # Of the first p places of the endless series, floor(p * fraction) are corpus sequences.
        over, under = self._fraction.numerator, self._fraction.denominator
        replays_before = places * over // under
        replayed = (places + 1) * over // under > replays_before
        rows = np.full(len(places), -1, dtype=np.int64)
        rows[~replayed] = shuffled((places - replays_before)[~replayed], len(self._ends), self.seed)
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
            for index in self._members[self._ends[row - 1] if row else 0 : self._ends[row]].tolist():
                table, span = self._dialogues.span(index)
                members[slot].append(len(samples))
                samples.append(Sample(table["ids"][span].tolist(), table["mask"][span].tolist()))
        return collate(samples, members, self.max_length, self.isolate)[0]
