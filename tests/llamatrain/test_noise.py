"""The noise of sampling against NumPy's 64-bit arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llamatrain.data.order import GOLDEN, scramble
from llamatrain.noise import key_tensor, noise_key, uniform

EXTREMES = [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, GOLDEN, (1 << 64) - GOLDEN]


def test_equals_unsigned_arithmetic_bit_for_bit() -> None:
    random = np.random.default_rng(0)
    keys = np.array([*EXTREMES, *random.integers(0, 1 << 64, 20_000, dtype=np.uint64)], dtype=np.uint64)
    positions = np.array([0, 1, 2, 1023, 4095, (1 << 31) - 1, (1 << 63) - 1], dtype=np.uint64)
    numbers = scramble(keys[:, None] + positions * np.uint64(GOLDEN))
    expected = (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53
    found = uniform(key_tensor(keys.tolist())[:, None], torch.from_numpy(positions.astype(np.int64)))
    assert found.dtype == torch.float64
    assert np.array_equal(found.numpy(), expected)


def test_the_numbers_are_those_of_the_published_generator() -> None:
    # SplitMix64 from seed 0: the counter has advanced once at its first number.
    found = uniform(key_tensor([0]), torch.arange(1, 4)) * 2.0**53
    assert [int(x) for x in found] == [x >> 11 for x in (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)]


def test_noise_is_uniform_and_without_correlation_between_positions() -> None:
    keys = key_tensor([noise_key(0, f"p{i}", 0) for i in range(5000)])
    at = [uniform(keys, torch.tensor(position)).numpy() for position in range(4)]
    for x in at:
        assert x.min() >= 0
        assert x.max() < 1
        assert np.histogram(x, bins=10, range=(0, 1))[0] == pytest.approx([500] * 10, abs=90)
    assert np.abs(np.corrcoef(at) - np.eye(4)).max() < 0.06
