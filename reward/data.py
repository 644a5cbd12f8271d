"""Preference pairs: read from files, what nothing can be learned from left out, and made into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llamatrain.data.cache import UNKEPT, Cache
from llamatrain.data.encoding import FAULTS, NONE, PREFERENCES, Encoding
from llamatrain.data.faults import LeftOutPairs
from llamatrain.data.order import shuffled
from llamatrain.data.packing import Batch
from llamatrain.data.skipped import BadRows
from llamatrain.data.tokenized import of_sources
from llamatrain.errors import UserError
from llamatrain.model.config import load_config
from llamatrain.responses.pairs import Pair, Pairs, Picked, collate_pairs
from llamatrain.shares import passes
from llamatrain.tokenizer import Tokenizer

from .losses import margin_of
from .mix import draw, mixed_count


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
    cached: Cache = UNKEPT,
) -> tuple[Pairs, LeftOutPairs]:
    """Read a preferences file; return its pairs and how many were left out for each reason (`faults`).

    `kind` refuses rows of the other kind; `too_long` (a side of more than
    `max_length` tokens) is `skip` or `stop`. UserError on both. Bad rows go to `bad`. The tokens are those in `cached`.
    """
    if too_long not in ("skip", "stop"):
        raise UserError(f"too_long={too_long}: need skip or stop")
    rows = of_sources([path], Encoding("preference", tokenizer, max_length), bad or BadRows(), cached)
    kinds, faults, kept = rows.column("kind"), rows.column("fault"), rows.column("length") > 0
    other = np.flatnonzero(kinds != (kinds[0] if kind is None else PREFERENCES.index(kind)))
    if kind is not None and len(other):
        found = PREFERENCES[kinds[other[0]]]
        raise UserError(f"{rows.where(other[0])} is a {found} preference, but kind={kind}; mix takes both")
    dropped = LeftOutPairs()
    for number in np.flatnonzero(~kept).tolist():
        if faults[number] == NONE and too_long == "stop":
            needed, need = rows.column("needed")[number], "need a shorter one, or too_long=skip"
            raise UserError(f"{rows.where(number)} has {needed} tokens, max_length={max_length}; {need}")
        dropped.note("too_long" if faults[number] == NONE else FAULTS[faults[number]], rows.where(number))
    if not kept.any():
        raise UserError(f"{path} has no pair to rank within max_length={max_length} tokens: {dropped.in_words()}")
    return Pairs(rows.take(kept), _nth(rows.column("number"))[kept], str(path)), dropped


def _nth(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return of each preference which it is among those that its raw row makes, from 0; they follow each other."""
    places = np.arange(len(numbers))
    first = np.concatenate([[True], np.diff(numbers) != 0])
    return places - np.maximum.accumulate(np.where(first, places, 0))


def mix_pairs(own: Sequence[Pair], other: Sequence[Pair], share: float, seed: int) -> Sequence[Pair]:
    """Return all of `own` and as many of `other` as make up `share` of the whole."""
    if share > 0 and not other:
        raise UserError(f"mix_share={share}: need files in mix")
    drawn = np.array(draw(len(other), mixed_count(len(own), share), seed), dtype=np.int64)
    return Picked([own, other], np.concatenate([np.arange(len(own)), len(own) + drawn]))


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
