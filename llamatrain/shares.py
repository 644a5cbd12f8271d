"""How a global batch is shared among ranks and micro-batches. Imports no torch.

A batch need not divide by the ranks: every rank makes as many micro-batches as the one with the most rows, as ZeRO wants
it, and rows without a target fill up what others lack.
"""

from __future__ import annotations


def largest_share(rows: int, ranks: int) -> int:
    """Return the rows of the rank with the most, where so many rows are shared evenly."""
    return -(-rows // ranks)


def passes(rows: int, size: int, ranks: int) -> int:
    """Return the micro-batches of `size` rows that every rank makes of a global batch of `rows`."""
    return -(-largest_share(rows, ranks) // size)


def split_in_words(rows: int, size: int, ranks: int) -> str:
    """Say how a global batch is split, and which share of the work is padding where it does not divide."""
    return f"in micro-batches of {size}{padding_in_words(rows, size, ranks)}"


def padding_in_words(rows: int, size: int, ranks: int) -> str:
    """Say which share of the work is padding, where there is any."""
    whole = passes(rows, size, ranks) * size * ranks
    return f" ({1 - rows / whole:.1%} of the work is padding: {rows:,} rows on {ranks:,} ranks)" if rows < whole else ""
