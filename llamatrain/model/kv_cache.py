"""The keys and values of earlier positions, kept so that each new token costs one position.

Shapes: B rows of one forward, K key-value heads, T new positions, D head dimension, L positions to attend to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llamatrain.model.attention import additive, rotary_table
from llamatrain.model.blocks import Rotary
from llamatrain.model.config import ModelConfig

_BLOCK = 64  # positions: the least that a cache grows by


class KVCache:
    """Keys and values in slots, written in place; slots are left-aligned.

    It has room for as many positions as its slots reach, at most `longest`: see `reserve`. It does not know how full they
    are: whoever fills it says so in `rows`.
    """

    def __init__(self, config: ModelConfig, slots: int, longest: int, dtype: torch.dtype, device: torch.device) -> None:
        self.device, self.longest, self.room, self.n_kv_heads = device, longest, 0, config.n_kv_heads
        # Of each layer (slots, 2 K, room, D): keys, then values. A tensor per layer, so that it grows layer by layer.
        shape = (slots, 2 * config.n_kv_heads, 0, config.head_dim)
        self.layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        # The angles of all positions, so that a token looks its own up.
        positions = torch.arange(longest, device=device)[None]
        self.angles = torch.cat(rotary_table(positions, config.head_dim, config.rope_theta, dtype), -1)[
            0
        ]  # (longest, 1, 2 D)

    def reserve(self, length: int) -> None:
        """Make room for `length` positions in each slot, or give room back where less than half is needed.

        It grows by a quarter at least, so that few tokens find it too small.
        """
        if length <= self.room <= max(2 * length, _BLOCK):
            return
        wanted = max(length, 5 * self.room // 4) if length > self.room else length
        room = min(-(-wanted // _BLOCK) * _BLOCK, self.longest)
        kept = min(room, self.room)
        for number, old in enumerate(self.layers):
            # Zeros, not empty: a hidden position is multiplied by a probability of 0, and 0 * NaN is NaN.
            grown = old.new_zeros(*old.shape[:2], room, old.shape[3])
            grown[:, :, :kept] = old[:, :, :kept]
            self.layers[number] = grown
        self.room = room

    def rows(self, start: int, new: int, lengths: Tensor, end: int) -> CacheRows:
        """Return the slots from `start`, holding `lengths` (B,) positions each, for a forward of `new` tokens a row.

        None reaches beyond position `end` then: a bound that the host knows without asking the device.
        """
        self.reserve(end)
        return CacheRows(self, slice(start, start + len(lengths)), new, lengths=lengths, end=end)

    def empty_rows(self, start: int, new: int, source: list[int]) -> CacheRows:
        """Return the slots from `start`, to be filled afresh by a forward of `new` tokens a row.

        Slot start + i takes row source[i] of the forward's batch, so that one prompt can fill several slots.
        """
        if new > self.room:
            self.reserve(new)
        return CacheRows(self, slice(start, start + len(source)), new, source=source)

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the first `length` positions of some slots over others."""
        for layer in self.layers:
            layer[target, :, :length] = layer[source, :, :length]


class CacheRows:
    """The slots that one forward reads and writes, the `rotary` tables of its tokens' positions and what they see.

    `visible` says which keys: 0, or -inf for none, (B, 1, T, L); None: plain causal attention among the new tokens, as
    the slots are empty.
    """

    def __init__(
        self,
        cache: KVCache,
        slots: slice,
        new: int,
        *,
        lengths: Tensor | None = None,
        end: int = 0,
        source: list[int] | None = None,
    ) -> None:
        self.slots, self.new, self.layers, self.n_kv_heads = slots, new, cache.layers, cache.n_kv_heads
        self.visible: Tensor | None = None
        self.source = None if source is None else torch.tensor(source, device=cache.device)
        positions = torch.arange(new, device=cache.device)[None]
        if lengths is not None:  # slots of unequal length: each row's new tokens go behind its own
            self.end = end
            self.row = torch.arange(len(lengths), device=cache.device)[:, None]
            positions = positions + lengths[:, None]
            # Causal, and no further than a slot is filled: what lies behind is padding or a former response's.
            visible = torch.arange(end, device=cache.device) <= positions[:, None, :, None]  # (B, 1, T, L)
            self.visible = additive(visible, cache.angles.dtype)
        self.positions = positions  # (1 or B, T)
        cos, sin = cache.angles[positions].chunk(2, -1)
        self.rotary: Rotary = cos, sin

    def update(self, layer: int, new: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, (B, T, 2 K, D), and return those to attend to, (B, K, L, D) each."""
        store = self.layers[layer][self.slots]
        if self.source is not None:  # empty slots: the new tokens are all there is to attend to
            new = new.transpose(1, 2)
            store[:, :, : self.new] = new[self.source]
            return new[:, : self.n_kv_heads], new[:, self.n_kv_heads :]
        store[self.row, :, self.positions] = new
        return store[:, : self.n_kv_heads, : self.end], store[:, self.n_kv_heads :, : self.end]
