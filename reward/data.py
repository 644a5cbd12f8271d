"""Preference pairs: read from files, what nothing can be learned from left out, and made into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from llamatrain.chat import Message, encode_dialogue, too_many
from llamatrain.data.faults import LeftOutPairs, fault
from llamatrain.data.kinds import PreferenceRow
from llamatrain.data.order import shuffled
from llamatrain.data.packing import Batch
from llamatrain.data.rows import placed_rows, row_number
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.model.config import load_config
from llamatrain.responses.pairs import Pair, Tokens, collate_pairs
from llamatrain.shares import passes
from llamatrain.tokenizer import Tokenizer

from .losses import margin_of
from .mix import draw, mixed_count

Side = Literal["chosen", "rejected"]


def most_tokens(folder: Path, max_length: int | None) -> int:
    """Return the most tokens of prompt and response: the context of the checkpoint's model, or less where asked for."""
    context = load_config(folder)[0].max_seq_len
    if max_length is not None and not 1 < max_length <= context:
        raise UserError(f"max_length={max_length}: need 2 to {context}, the model's context, or null for all of it")
    return max_length or context


def load_pairs(
    path: str,
    tokenizer: Tokenizer,
    max_length: int,
    too_long: str,
    kind: str | None = None,
    bad: BadRows | None = None,
) -> tuple[list[Pair], LeftOutPairs]:
    """Read a preferences file; return its pairs and how many were left out for each reason (`faults`).

    `kind` refuses rows of the other kind; `too_long` (a side of more than
    `max_length` tokens) is `skip` or `stop`. UserError on both. Bad rows go to `bad`.
    """
    if too_long not in ("skip", "stop"):
        raise UserError(f"too_long={too_long}: need skip or stop")
    pairs: list[Pair] = []
    dropped = LeftOutPairs()
    bad = bad or BadRows()
    before, nth = "", 0
    for where, row in placed_rows(path, PreferenceRow, bad):
        before, nth = where, nth + 1 if where == before else 0
        if kind is not None and row["kind"] != kind:
            raise UserError(f"{where} is a {row['kind']} preference, but kind={kind}; mix takes both")
        why = fault(row)
        if why is not None:
            dropped.note(why, where)
            continue
        # A side far too long is told by its characters, before either is encoded.
        sides = [_messages(row, "chosen"), _messages(row, "rejected")]
        count = max(too_many(messages, tokenizer, max_length) or 0 for messages in sides)
        pair = None if count else _pair(row, tokenizer, path, row_number(where) - 1, nth)
        if pair is not None and pair.longest <= max_length:
            pairs.append(pair)
        elif too_long == "skip":
            dropped.note("too_long", where)
        else:
            need = f"max_length={max_length}; need a shorter one, or too_long=skip"
            raise UserError(f"{where} has {pair.longest if pair else count} tokens, {need}")
    if not pairs:
        raise UserError(f"{path} has no pair to rank within max_length={max_length} tokens: {dropped.in_words()}")
    return pairs, dropped


def _messages(row: PreferenceRow, side: Side) -> list[Message]:
    return [*row["messages"], {"role": "assistant", "content": row[side]}]


def _pair(row: PreferenceRow, tokenizer: Tokenizer, source: str, number: int, nth: int) -> Pair:
    def tokens(side: Side) -> Tokens:
        return np.asarray(encode_dialogue(_messages(row, side), tokenizer, loss="last")[0], dtype=np.int32)

    return Pair(
        chosen=tokens("chosen"),
        rejected=tokens("rejected"),
        rating=row.get("rating"),
        chosen_safe=row.get("chosen_safe"),
        rejected_safe=row.get("rejected_safe"),
        is_adversarial=bool(row.get("meta", {}).get("is_adversarial", row["kind"] == "safety")),
        source=str(source),
        row=number,
        nth=nth,
    )


def mix_pairs(own: list[Pair], other: list[Pair], share: float, seed: int) -> list[Pair]:
    """Return all of `own` and as many of `other` as make up `share` of the whole."""
    if share > 0 and not other:
        raise UserError(f"mix_share={share}: need files in mix")
    return [*own, *(other[index] for index in draw(len(other), mixed_count(len(own), share), seed))]


def training_batch(pairs: Sequence[Pair], max_length: int, margin: str) -> Batch:
    """Return a micro-batch of pairs (see `collate_pairs`) with the `margin` (m,) that each must be ranked by."""
    margins = torch.tensor([margin_of(pair.rating, margin) for pair in pairs])
    return {**collate_pairs(pairs, max_length), "margin": margins}


class PairBatches:
    """The training order: `batch_at(step)` is a function of the pairs, the seed and the step.

    A global batch is the next `batch_pairs` of an order that is shuffled in each epoch. Within it the pairs are
    distributed by length, so that every micro-batch of every rank has about as many tokens. Where they do not divide, some
    micro-batches have a pair less, or none: all ranks make as many.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        margin: str,
        max_length: int,
        batch_pairs: int,
        micro_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_pairs > len(pairs):
            raise UserError(f"batch_pairs={batch_pairs} exceeds the {len(pairs)} training pairs; need at most that")
        self.pairs, self.margin, self.max_length = pairs, margin, max_length
        self.batch_pairs, self.micro_batch_size, self.seed = batch_pairs, micro_batch_size, seed
        self.rank, self.world_size = rank, world_size
        margin_of(None, margin)

    @property
    def steps_per_epoch(self) -> float:
        """Return how many global batches the pairs make."""
        return len(self.pairs) / self.batch_pairs

    @property
    def fingerprint(self) -> str:
        """Return a hash of what is trained on, in its order of files."""
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(pair.chosen.tobytes() + b"/" + pair.rejected.tobytes())
            digest.update(repr((pair.rating, pair.chosen_safe, pair.rejected_safe)).encode())
        return digest.hexdigest()

    def sample_ids(self, step: int) -> list[int]:
        """Return the indices of the pairs in the global batch of `step`."""
        places = np.arange(step * self.batch_pairs, (step + 1) * self.batch_pairs)
        ids: list[int] = shuffled(places, len(self.pairs), self.seed).tolist()
        return ids

    def batch_at(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of the global batch of `step`."""
        pairs = sorted((self.pairs[i] for i in self.sample_ids(step)), key=len, reverse=True)
        count = self.world_size * passes(self.batch_pairs, self.micro_batch_size, self.world_size)  # on all ranks
        micro_batches: list[list[Pair]] = [[] for _ in range(count)]
        # From the longest pair down, one to each in turn, and every other round backwards: who got the longest of one
        # round gets the shortest of the next.
        for number, start in enumerate(range(0, len(pairs), count)):
            turn = micro_batches[::-1] if number % 2 == 1 else micro_batches
            for micro_batch, pair in zip(turn, pairs[start : start + count], strict=False):
                micro_batch.append(pair)
        own = micro_batches[self.rank :: self.world_size]
        return [training_batch(pairs, self.max_length, self.margin) for pairs in own]
