"""The keys and values of earlier positions, kept so that each new token costs one position.

Shapes: B rows of one forward, K key-value heads, T positions, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llamatrain.model.attention import rotary_table
from llamatrain.model.blocks import Rotary
from llamatrain.model.config import ModelConfig

_BLOCK = 32  # positions: the least that a cache grows by


class KVCache:
    """Keys and values in slots, written in place; slots are left-aligned.

    It has room for as many positions as its slots reach, at most `longest`: see `reserve`. It does not know how full they
    are: whoever fills it does.
    """

    def __init__(self, config: ModelConfig, slots: int, longest: int, dtype: torch.dtype, device: torch.device) -> None:
        self.device, self.longest, self.room = device, longest, 0
        # Of each layer keys and values, (slots, K, room, D): tensors of their own, so that all heads are one batch of
        # matrices, and the cache grows layer by layer.
        shape = (slots, config.n_kv_heads, 0, config.head_dim)
        self.layers = [[torch.zeros(shape, dtype=dtype, device=device) for _ in "kv"] for _ in range(config.n_layers)]
        # The angles of all positions, so that a token looks its own up.
        positions = torch.arange(longest, device=device)[None]
        self.angles = rotary_table(positions, config.head_dim, config.rope_theta, dtype)  # (1, longest, 1, D) each

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in each slot, or give room back where much less than there is is needed.

        It grows by an eighth at least, so that few tokens find it too small.
        """
        fitting = -(-length // _BLOCK) * _BLOCK
        if length <= self.room <= 3 * fitting // 2:
            return
        wanted = max(length, 9 * self.room // 8) if length > self.room else length
        room = min(-(-wanted // _BLOCK) * _BLOCK, self.longest)
        kept = min(room, self.room)
        for stores in self.layers:
            for number, old in enumerate(stores):
                stores[number] = grown = old.new_empty(*old.shape[:2], room, old.shape[3])
                grown[:, :, :kept] = old[:, :, :kept]
                # Zeros, not empty: a hidden position is multiplied by a probability of 0, and 0 * NaN is NaN.
                grown[:, :, kept:] = 0
        self.room = room

    def empty_rows(self, start: int, new: int, source: list[int]) -> CacheRows:
        """Return the slots from `start`, to be filled afresh by a forward of `new` tokens a row.

        Slot start + i takes row source[i] of the forward's batch, so that one prompt can fill several slots.
        """
        if new > self.room:
            self.reserve(new)
        return CacheRows(self, slice(start, start + len(source)), new, source)

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the first `length` positions of some slots over others."""
        for stores in self.layers:
            for store in stores:
                store[target, :, :length] = store[source, :, :length]


class CacheRows:
    """The slots that one forward fills, and the `rotary` tables of its tokens' positions."""

    def __init__(self, cache: KVCache, slots: slice, new: int, source: list[int]) -> None:
        self.slots, self.new, self.layers = slots, new, cache.layers
        self.source = torch.tensor(source, device=cache.device)
        cos, sin = cache.angles
        self.rotary: Rotary = cos[:, :new], sin[:, :new]

    def fill(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write rotated keys and values, (B, K, T, D)."""
        for store, new in zip(self.layers[layer], (keys, values), strict=True):
            store[self.slots, :, : self.new] = new[self.source]
