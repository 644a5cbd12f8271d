"""Order as random access: a pseudo-random permutation of 0..n-1 whose value at any place costs O(1) time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.int64]  # in an endless series of rows

GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's step: 2^64 over the golden ratio, odd
# SplitMix64's rounds: a number is joined with itself shifted to the right by the one, then multiplied by the other.
SCRAMBLE = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_ROUNDS = 6
_MASK = (1 << 64) - 1


@overload
def permuted(index: int, n: int, seed: int) -> int: ...
@overload
def permuted(index: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]: ...
def permuted(index: int | NDArray[np.int64], n: int, seed: int) -> int | NDArray[np.int64]:
    """Return where `index` (a number or an array, in 0..n-1) goes in the permutation of n things that `seed` names.

    A Feistel network permutes the numbers of an even number of bits; a result of n or more is sent through again until
    it is below n.
    """
    places = np.atleast_1d(np.asarray(index, dtype=np.int64))
    if places.size and not (places.min() >= 0 and places.max() < n):
        raise ValueError(f"index {index} is not within 0..{n - 1}")
    # Bits of each half. Together they hold fewer than 4n numbers, so that few results are sent through again.
    half = np.uint64(max((max(n - 1, 1).bit_length() + 1) // 2, 1))
    keys = [np.uint64(mix(seed, number)) for number in range(_ROUNDS)]
    values = _feistel(places.astype(np.uint64), half, keys)
    while (outside := values >= n).any():
        values[outside] = _feistel(values[outside], half, keys)
    result = values.astype(np.int64)
    return int(result[0]) if isinstance(index, int | np.integer) else result


def shuffled(places: Places, count: int, seed: int) -> Places:
    """Map places of an endless series to rows 0..count-1, every row once an epoch, each epoch in an order of its own."""
    rows = np.empty_like(places)
    for epoch in np.unique(places // count).tolist():
        chosen = places // count == epoch
        rows[chosen] = permuted(places[chosen] % count, count, mix(seed, epoch))
    return rows


def interleaved(places: Places, weights: Sequence[int]) -> tuple[Places, NDArray[np.int64]]:
    """Interleave sources by weight over an endless series of places; return each place's source and its index there.

    Every stretch of places holds each source in its proportion, to within a place or so per source, and each source's
    indices run 0, 1, 2, ... One source after the other takes its share of what the earlier ones left.
    """
    source, index = np.empty_like(places), np.empty_like(places)
    slots, rest, total = np.arange(len(places)), places, sum(weights)
    for number, weight in enumerate(weights):
        if weight == 0:
            continue
        # Of the first p places that are left, floor(p * weight / total) are this source's: p is its own where that
        # number grows. `rest` numbers the places that are left, so the next source sees a series without gaps.
        before = rest * weight // total
        own = (rest + 1) * weight // total > before
        source[slots[own]], index[slots[own]] = number, before[own]
        slots, rest, total = slots[~own], (rest - before)[~own], total - weight
    return source, index


def mix(*numbers: int) -> int:
    """Return a 64-bit number in which every bit depends on all the numbers: a seed of seeds."""
    state = 0
    for number in numbers:
        state = int(scramble(np.array([(state + GOLDEN + (number & _MASK)) & _MASK], dtype=np.uint64))[0])
    return state


def _feistel(values: NDArray[np.uint64], half: np.uint64, keys: list[np.uint64]) -> NDArray[np.uint64]:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & low
    for key in keys:
        left, right = right, left ^ (scramble(right ^ key) & low)
    return (left << half) | right


def scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a permutation of 64-bit numbers that spreads every bit: SplitMix64's (arrays wrap around silently)."""
    for shift, factor in SCRAMBLE:
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values
