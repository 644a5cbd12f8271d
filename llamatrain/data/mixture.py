"""How a corpus is mixed from its sources: each one's share of the sequences, and how many it has. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llamatrain.data.shards import Source
from llamatrain.errors import UserError


def whole_sequences(source: Source, seq_len: int) -> int:
    """Return the sequences of an epoch of a source."""
    return (source.tokens - 1) // (seq_len - 1)  # neighbours share a token: each has seq_len - 1 of its own


def source_shares(sources: Sequence[Source], mixture: Mapping[str, float] | None) -> list[float]:
    """Return each source's share of the sequences: the corpus's own, or by the weights of a mixture."""
    if not mixture:
        return [source.share for source in sources]
    names = [source.name for source in sources]
    for name, weight in mixture.items():
        if name not in names:
            raise UserError(f"mixture.{name}: the corpus has no such source; need one of {', '.join(names)}")
        if weight < 0:
            raise UserError(f"mixture.{name}={weight}: need a weight of 0 or more")
    total = sum(mixture.values())
    if total <= 0:
        raise UserError(f"mixture={dict(mixture)}: need a source with a weight above 0")
    return [mixture.get(name, 0.0) / total for name in names]
