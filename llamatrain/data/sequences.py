"""Sequences over a corpus, mixed from its sources: what pretraining trains on.

Shapes: B rows of a micro-batch, T = seq_len tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llamatrain.data.batches import Batches
from llamatrain.data.mixture import source_shares, whole_sequences
from llamatrain.data.order import Places, interleaved, mix, shuffled
from llamatrain.data.packing import Batch, with_weight
from llamatrain.data.shards import Source, TokenStream, read_manifest
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

SHOWN = 80  # characters of a sample's text where it is described

_PARTS = 1 << 20  # to which a source's share is rounded


class TokenBatches(Batches):
    """Sequences of `seq_len` tokens over one part (train/ or eval/) of a corpus, mixed from its sources by their shares.

    Neighbouring sequences of a source share one token, so every token but its first is a target exactly once in an epoch
    of that source (up to a tail shorter than a sequence, which only `eval_batches` shows). Documents share a sequence; with
    `isolate` each is a segment of its own, positions restart with it, and its first token (BOS) is no target.
    `tokenizer`, where given, must be the corpus's own. `mixture` (source -> weight) replaces the corpus's shares.
    A source that is trained on must fill a sequence; `held_out` sequences are only gone through in order, shorter ones too.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        seq_len: int,
        batch_size: int,
        micro_batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        isolate: bool = False,
        tokenizer: Tokenizer | None = None,
        skip: Sequence[int] = (),
        mixture: Mapping[str, float] | None = None,
        held_out: bool = False,
    ) -> None:
        super().__init__(batch_size, micro_batch_size, seed, rank, world_size, skip)
        if seq_len < 2:
            raise UserError(f"seq_len={seq_len}: need 2 tokens or more")
        self.seq_len, self.isolate = seq_len, isolate
        self.manifest = read_manifest(folder, tokenizer)
        self.sources = self.manifest.sources
        self.streams = [TokenStream(Path(folder), source, self.manifest.dtype) for source in self.sources]
        shares = source_shares(self.sources, mixture)
        for source, share in zip(self.sources, shares, strict=True):
            if share and not held_out and source.tokens < seq_len:
                raise UserError(
                    f"source {source.name} of {folder} holds {source.tokens} tokens; seq_len={seq_len} needs that many "
                    "at least"
                )
        self.sequences = [whole_sequences(source, seq_len) for source in self.sources]
        self._weights = [max(1, round(share * _PARTS)) if share else 0 for share in shares]
        self.steps_per_epoch = sum(self.sequences) / batch_size
        text = f"{self.manifest.fingerprint} {self._weights}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def targets(self, source: Source) -> int:
        """Return the tokens that all sequences of a source predict: not its first one and, isolated, no document's first."""
        return source.tokens - (source.documents if self.isolate else 1)

    def _count(self) -> int:
        return sum(self._rows_of(number) for number in range(len(self.sources)))

    def _rows_of(self, number: int) -> int:
        """Return the sequences of a source, the shorter one at its end counted."""
        return -(-(self.sources[number].tokens - 1) // (self.seq_len - 1))

    def sequences_at(self, places: Places) -> Batch:
        """Return the sequences at places of the endless series, one row each."""
        return self._read(*self.located(places), len(places))

    def located(self, places: Places) -> tuple[Places, Places]:
        """Return the source and, in it, the sequence at each place of the endless series."""
        source, index = interleaved(places, self._weights)
        sequence = np.empty_like(index)
        for number in np.unique(source).tolist():
            chosen = source == number
            # By the source's name: another source in the mixture leaves the order within this one as it is.
            seed = mix(self.seed, *self.sources[number].name.encode())
            sequence[chosen] = shuffled(index[chosen], self.sequences[number], seed)
        return source, sequence

    def describe(self, samples: Sequence[int], tokenizer: Tokenizer) -> list[dict[str, Any]]:
        """Return the number (`sample`), `source` and beginning of the `text` of samples of the endless series."""
        places = np.asarray(samples, dtype=np.int64)
        rows = self.sequences_at(places)["input_ids"][:, : SHOWN + 1].tolist()
        texts = (tokenizer.decode(row).strip()[:SHOWN] for row in rows)
        names = (self.sources[number].name for number in self.located(places)[0].tolist())
        return [
            {"sample": int(sample), "source": name, "text": text}
            for sample, name, text in zip(samples, names, texts, strict=True)
        ]

    def _rows_at(self, places: Places) -> Batch:
        return self._read(*self.located(places), self.micro_batch_size)

    def source_batches(self, name: str, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of one source's sequences (or the first `limit`), like `eval_batches`."""
        number = [source.name for source in self.sources].index(name)
        first = sum(self._rows_of(earlier) for earlier in range(number))
        return self._in_order(first, self._rows_of(number), limit)

    def _eval_rows(self, rows: range) -> Batch:
        ends = np.cumsum([self._rows_of(number) for number in range(len(self.sources))])
        at = np.asarray(rows, dtype=np.int64)
        source = np.searchsorted(ends, at, side="right")
        sequence = at - np.concatenate([[0], ends])[source]
        return self._read(source, sequence, self.micro_batch_size)

    def _read(self, sources: Places, sequences: Places, rows: int) -> Batch:
        """Return sequences of sources, by number, as a batch of `rows`, filled up with padding."""
        input_ids = np.zeros((rows, self.seq_len), dtype=np.int64)
        length = np.zeros((rows, 1), dtype=np.int64)
        for row, (source, sequence) in enumerate(zip(sources.tolist(), sequences.tolist(), strict=True)):
            tokens = self.streams[source].read(sequence * (self.seq_len - 1), self.seq_len)
            input_ids[row, : len(tokens)] = tokens
            length[row] = len(tokens)
        columns = np.arange(self.seq_len)
        real = columns < length
        loss_mask = real & (columns > 0)
        position_ids, segment_ids = np.where(real, columns, 0), real.astype(np.int64)
        if self.isolate:  # a document begins at each BOS, which text never holds
            begins = (input_ids == self.manifest.bos_id) & (columns > 0) & real
            segment_ids = np.where(real, 1 + np.cumsum(begins, axis=1), 0)
            own_start = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)  # column of each token's document
            position_ids = np.where(real, columns - own_start, 0)
            loss_mask &= ~begins  # the end of one document says nothing of the next
        batch = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "segment_ids": segment_ids,
            "loss_mask": loss_mask,
        }
        return with_weight({name: torch.from_numpy(column) for name, column in batch.items()})
