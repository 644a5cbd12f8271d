"""Batches addressed by step: what a step trains on follows from seed, data and step, never from ranks or history.

Rows stand in one endless sequence of places: epoch after epoch, each in its own pseudo-random order (`permuted`). Step
s takes places s * batch_size and on; an epoch's end may fall within a batch. A resumed run, on any number of ranks,
asks for the step it is at.

Shapes: B rows of a micro-batch, T = seq_len tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llamatrain.chat import Message, encode_dialogue, without_oldest_turn
from llamatrain.data.order import dealt, mix, permuted
from llamatrain.data.packing import Batch, Sample, collate, pack, with_weight
from llamatrain.data.shards import Source, TokenStream, read_manifest
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

Places = NDArray[np.int64]
TooLong = Literal["skip", "stop", "drop_turns"]
_PARTS = 1 << 20  # to which a source's share is rounded


def check_split(key: str, value: int, parts: Mapping[str, int], ranks: int) -> None:
    """Refuse a global batch (`key`=`value`) that is no multiple of its parts' product on all ranks."""
    for name, count in {key: value, **parts}.items():
        if count < 1:
            raise UserError(f"{name}={count}: need 1 or more")
    multiple = math.prod(parts.values()) * ranks
    if value % multiple:
        named = " x ".join(f"{name}={count}" for name, count in parts.items())
        raise UserError(
            f"{key}={value} must be a multiple of {named} x {ranks} rank{'s' if ranks > 1 else ''} = {multiple}"
        )


class _Batches:
    """Global batches of rows, split over micro-batches and ranks. A subclass makes the rows at given places."""

    fingerprint: str
    steps_per_epoch: float

    def __init__(
        self, batch_size: int, micro_batch_size: int, seed: int, rank: int, world_size: int, skip: Sequence[int]
    ) -> None:
        check_split("batch_size", batch_size, {"micro_batch_size": micro_batch_size}, world_size)
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.skip = list(skip)

    @property
    def skip(self) -> list[int]:
        """The global places that are passed over, in order. A longer list leaves the places before its new ones alone."""
        return [int(place) for place in self._skip]

    @skip.setter
    def skip(self, places: list[int]) -> None:
        if min(places, default=0) < 0:
            raise UserError(f"skip_samples={places}: needs numbers of 0 or more")
        self._skip = np.unique(np.asarray(places, dtype=np.int64))
        self._skip_after = self._skip - np.arange(len(self._skip))  # how many samples are taken before each skipped one

    def sample_ids(self, step: int) -> list[int]:
        """Return the global places of a step's rows. Those named in `skip` are passed over: the next ones move up."""
        return [int(place) for place in self._places(step)]

    def batch_at(self, step: int) -> list[Batch]:
        """Return this rank's micro-batches of the global batch of `step` (counted from 0)."""
        share = self.batch_size // self.world_size
        own = self._places(step)[self.rank * share : (self.rank + 1) * share]
        size = self.micro_batch_size
        return [self._rows_at(own[start : start + size]) for start in range(0, share, size)]

    def eval_batches(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of all rows (or the first `limit`), in order and once: as many batches on every rank.

        What is missing from the last ones is padding (rows without a target, weight 0).
        """
        return self._in_order(0, self._count(), limit)

    def _in_order(self, first: int, count: int, limit: int | None) -> Iterator[Batch]:
        rows = count if limit is None else min(limit, count)
        size = self.micro_batch_size
        rounds = -(-rows // (size * self.world_size))
        for number in range(rounds):
            start = (number * self.world_size + self.rank) * size
            yield self._eval_rows(range(first + min(start, rows), first + min(start + size, rows)))

    def _places(self, step: int) -> Places:
        wanted = np.arange(step * self.batch_size, (step + 1) * self.batch_size, dtype=np.int64)
        return wanted + np.searchsorted(self._skip_after, wanted, side="right")

    def _count(self) -> int:
        raise NotImplementedError

    def _rows_at(self, places: Places) -> Batch:
        raise NotImplementedError

    def _eval_rows(self, rows: range) -> Batch:
        raise NotImplementedError


def whole_windows(source: Source, seq_len: int) -> int:
    """Return the windows of an epoch of a source."""
    return (source.tokens - 1) // (seq_len - 1)


def source_shares(sources: Sequence[Source], mixture: Mapping[str, float] | None) -> list[float]:
    """Return each source's share of the windows: the corpus's own, or by the weights of a mixture."""
    if not mixture:
        return [source.share for source in sources]
    names = [source.name for source in sources]
    for name, weight in mixture.items():
        if name not in names:
            raise UserError(f"mixture.{name}: the corpus has no such source; there are {', '.join(names)}")
        if weight < 0:
            raise UserError(f"mixture.{name}={weight}: needs a weight of 0 or more")
    total = sum(mixture.values())
    if total <= 0:
        raise UserError(f"mixture={dict(mixture)}: needs a source with a weight above 0")
    return [mixture.get(name, 0.0) / total for name in names]


class TokenBatches(_Batches):
    """Windows of `seq_len` tokens over one part (train/ or eval/) of a corpus, mixed from its sources by their shares.

    Neighbouring windows of a source share one token, so every token but its first is a target exactly once in an epoch
    of that source (up to a tail shorter than a window, which only `eval_batches` shows). Documents share a window; with
    `isolate` each is a segment of its own, positions restart with it, and its first token (BOS) is no target.
    `tokenizer`, where given, must be the corpus's own. `mixture` (source -> weight) replaces the corpus's shares.
    A source that is trained on must fill a window; `held_out` windows are only gone through in order, shorter ones too.
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
            raise UserError(f"seq_len={seq_len}: needs 2 tokens or more")
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
        self.windows = [whole_windows(source, seq_len) for source in self.sources]
        self._weights = [max(1, round(share * _PARTS)) if share else 0 for share in shares]
        self.steps_per_epoch = sum(self.windows) / batch_size
        text = f"{self.manifest.fingerprint} {self._weights}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def _count(self) -> int:
        return sum(self._rows_of(number) for number in range(len(self.sources)))

    def _rows_of(self, number: int) -> int:
        """Return the windows of a source, the shorter one at its end counted."""
        return -(-(self.sources[number].tokens - 1) // (self.seq_len - 1))

    def windows_at(self, places: Places) -> Batch:
        """Return the windows at places of the endless sequence, one row each."""
        return self._read(*self.located(places), len(places))

    def located(self, places: Places) -> tuple[Places, Places]:
        """Return the source and, in it, the window at each place of the endless sequence."""
        source, index = dealt(places, self._weights)
        window = np.empty_like(index)
        for number in np.unique(source).tolist():
            chosen = source == number
            seed = mix(self.seed, *self.sources[number].name.encode())
            window[chosen] = _shuffled(index[chosen], self.windows[number], seed)
        return source, window

    def describe(self, samples: Sequence[int], tokenizer: Tokenizer, characters: int = 80) -> list[dict[str, Any]]:
        """Return the number (`sample`), `source` and beginning of the `text` of samples of the endless sequence."""
        places = np.asarray(samples, dtype=np.int64)
        rows = self.windows_at(places)["input_ids"][:, : characters + 1].tolist()
        texts = (tokenizer.decode(row).strip()[:characters] for row in rows)
        names = (self.sources[number].name for number in self.located(places)[0].tolist())
        return [
            {"sample": int(sample), "source": name, "text": text}
            for sample, name, text in zip(samples, names, texts, strict=True)
        ]

    def _rows_at(self, places: Places) -> Batch:
        return self.windows_at(places)

    def source_batches(self, name: str, limit: int | None = None) -> Iterator[Batch]:
        """Yield this rank's share of one source's windows (or the first `limit`), like `eval_batches`."""
        number = [source.name for source in self.sources].index(name)
        first = sum(self._rows_of(earlier) for earlier in range(number))
        return self._in_order(first, self._rows_of(number), limit)

    def _eval_rows(self, rows: range) -> Batch:
        ends = np.cumsum([self._rows_of(number) for number in range(len(self.sources))])
        at = np.asarray(rows, dtype=np.int64)
        source = np.searchsorted(ends, at, side="right")
        window = at - np.concatenate([[0], ends])[source]
        return self._read(source, window, self.micro_batch_size)

    def _read(self, sources: Places, windows: Places, rows: int) -> Batch:
        """Return windows of sources, by number, as a batch of `rows`, filled up with padding."""
        input_ids = np.zeros((rows, self.seq_len), dtype=np.int64)
        length = np.zeros((rows, 1), dtype=np.int64)
        for row, (source, window) in enumerate(zip(sources.tolist(), windows.tolist(), strict=True)):
            tokens = self.streams[source].read(window * (self.seq_len - 1), self.seq_len)
            input_ids[row, : len(tokens)] = tokens
            length[row] = len(tokens)
        columns = np.arange(self.seq_len)
        real = columns < length
        loss_mask = real & (columns > 0)
        position_ids, segment_ids = np.where(real, columns, 0), real.astype(np.int64)
        if self.isolate:  # a document begins at each BOS, which text never holds
            begins = (input_ids == self.manifest.bos_id) & (columns > 0) & real
            segment_ids = np.where(real, 1 + np.cumsum(begins, axis=1), 0)
            position_ids = np.where(real, columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1), 0)
            loss_mask &= ~begins
        batch = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "segment_ids": segment_ids,
            "loss_mask": loss_mask,
        }
        return with_weight({name: torch.from_numpy(column) for name, column in batch.items()})


class DialogueBatches(_Batches):
    """Dialogues, tokenized once and packed into rows of `seq_len` tokens, each a segment of its own (`isolate`).

    The packing is fixed by the seed; the order of the packed rows is drawn anew each epoch. A row with the field `loss`
    overrides `loss`. `too_long` says what becomes of a dialogue longer than seq_len: `skip` it, `stop`, or
    `drop_turns`, which leaves out its oldest turns and skips it only if its last one alone is too long. `counts` tells:
    dialogues, kept, skipped, shortened, rows, tokens, target_tokens. `replay_fraction` of all rows are windows of the
    corpus `replay` instead (a small model forgets without them).
    """

    def __init__(
        self,
        dialogues: Iterable[dict[str, Any]],
        tokenizer: Tokenizer,
        *,
        seq_len: int,
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
        skip: Sequence[int] = (),
    ) -> None:
        super().__init__(batch_size, micro_batch_size, seed, rank, world_size, skip)
        if too_long not in ("skip", "stop", "drop_turns"):
            raise UserError(f"too_long={too_long!r}: needs skip, stop or drop_turns")
        if not 0 <= replay_fraction < 1 or (replay_fraction > 0) != (replay is not None):
            raise UserError(
                f"replay={replay}, replay_fraction={replay_fraction}: needs a corpus and a fraction below 1, "
                "or null and 0"
            )
        self.seq_len, self.isolate = seq_len, isolate
        self._fraction = Fraction(replay_fraction).limit_denominator(10_000)
        self._tokenize(dialogues, tokenizer, too_long, loss)
        self._pack()
        self.replay = None
        if replay is not None:
            self.replay = TokenBatches(
                replay,
                seq_len=seq_len,
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
        self, dialogues: Iterable[dict[str, Any]], tokenizer: Tokenizer, too_long: TooLong, loss: Literal["all", "last"]
    ) -> None:
        ids: list[NDArray[np.uint32]] = []
        masks: list[NDArray[np.bool_]] = []
        read = shortened = 0
        for row in dialogues:
            read += 1
            messages: list[Message] | None = row["messages"]
            while messages is not None:
                tokens, mask = encode_dialogue(messages, tokenizer, row.get("loss", loss))
                if len(tokens) <= self.seq_len:
                    ids.append(np.array(tokens, dtype=np.uint32))
                    masks.append(np.array(mask, dtype=bool))
                    shortened += len(messages) < len(row["messages"])
                    break
                if too_long == "stop":
                    raise UserError(
                        f"dialogue {read} ({messages[0]['content'][:40]!r}...) has {len(tokens)} tokens, more than "
                        f"seq_len={self.seq_len}: needs a longer seq_len, or too_long=skip or drop_turns"
                    )
                messages = without_oldest_turn(messages) if too_long == "drop_turns" else None
        if not ids:
            raise UserError(f"none of {read} dialogues fits into seq_len={self.seq_len} tokens: needs one at least")
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
        shuffled = permuted(np.arange(count), count, self.seed)
        lengths = np.diff(self._starts)[shuffled]
        self._members = [shuffled[row] for row in pack(lengths.tolist(), self.seq_len)]
        self.counts["rows"] = len(self._members)

    def _count(self) -> int:
        return len(self._members)

    def _rows_at(self, places: Places) -> Batch:
        # Of the first p places of the endless sequence, floor(p * fraction) are corpus windows.
        over, under = self._fraction.numerator, self._fraction.denominator
        before = places * over // under
        replayed = (places + 1) * over // under > before
        rows = np.full(len(places), -1, dtype=np.int64)
        rows[~replayed] = _shuffled((places - before)[~replayed], len(self._members), self.seed)
        batch = self._packed(rows)
        if self.replay is None or not replayed.any():
            return batch
        windows = self.replay.windows_at(before[replayed])
        slots = torch.from_numpy(np.flatnonzero(replayed))
        columns = [name for name in batch if name != "weight"]
        return with_weight({name: batch[name].index_copy(0, slots, windows[name]) for name in columns})

    def _eval_rows(self, rows: range) -> Batch:
        return self._packed(np.asarray(rows, dtype=np.int64))

    def _packed(self, rows: Places) -> Batch:
        """Return packed rows by number, an empty row for -1 and for what is missing from a micro-batch."""
        samples: list[Sample] = []
        members: list[list[int]] = [[] for _ in range(self.micro_batch_size)]
        for slot, row in enumerate(rows.tolist()):
            for index in self._members[row].tolist() if row >= 0 else ():
                span = slice(self._starts[index], self._starts[index + 1])
                members[slot].append(len(samples))
                samples.append(Sample(self._ids[span].tolist(), self._mask[span].tolist()))
        return collate(samples, members, self.seq_len, self.isolate)[0]


def _shuffled(places: Places, count: int, seed: int) -> Places:
    """Map places to rows 0..count-1, every row once an epoch, each epoch in an order of its own."""
    rows = np.empty_like(places)
    for epoch in np.unique(places // count).tolist():
        chosen = places // count == epoch
        rows[chosen] = permuted(places[chosen] % count, count, mix(seed, epoch))
    return rows
