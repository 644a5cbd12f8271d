"""The noise of sampling: a function of seed, program, prompt id, sample number and position, computed where the logits are.

SplitMix64 as a counter-based generator, as in `data.order`, on int64 tensors: their products and sums wrap around as those
of 64-bit numbers without sign do, so every device gives the same numbers as NumPy, bit by bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from llamatrain.data.order import GOLDEN, SCRAMBLE


def noise_key(seed: int, prompt_id: str, number: int, program: str = "") -> int:
    """Return the 64-bit key of the noise of one response of a program."""
    return int.from_bytes(hashlib.sha256(f"{program}/{seed}/{number}/{prompt_id}".encode()).digest()[:8], "little")


def key_tensor(keys: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return 64-bit keys as int64 (N,): the same bits, the upper one read as a sign."""
    return torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device=device)


def uniform(keys: Tensor, positions: Tensor) -> Tensor:
    """Return float64 numbers in [0, 1), one for each of keys and positions in the response, int64 that broadcast."""
    x = keys + positions * _signed(GOLDEN)
    for shift, factor in SCRAMBLE:
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    # The upper 53 bits: as many as a float64 holds, so that the largest is still below 1.
    return _shifted(x, 11).double() * 2.0**-53


def _shifted(x: Tensor, by: int) -> Tensor:
    """Shift to the right, filling up with zeros: torch's own shift of int64 repeats the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    """Return the number that the 64 bits of `number` are as an int64."""
    return number - (1 << 64) if number >> 63 else number
