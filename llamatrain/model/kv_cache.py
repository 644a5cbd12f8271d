"""The keys and values of earlier positions, kept so that each new token costs one position.

Shapes: B rows of one forward, K key-value heads, T new positions, D head dimension, L positions to attend to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llamatrain.model.attention import additive


class KVCache:
    """Preallocated keys and values, (layers, slots, K, max_len, D) each, written in place; slots are left-aligned.

    The cache does not know how full its slots are: whoever fills it says so in `rows`.
    """

    def __init__(
        self,
        n_layers: int,
        slots: int,
        n_kv_heads: int,
        max_len: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Zeros, not empty: a hidden position is multiplied by a probability of 0, and 0 * NaN is NaN.
        shape = (n_layers, slots, n_kv_heads, max_len, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.max_len = max_len

    def rows(self, start: int, new: int, lengths: Tensor, end: int) -> CacheRows:
        """Return the slots from `start`, holding `lengths` (B,) positions each, for a forward of `new` tokens a row.

        None reaches beyond position `end` then: a bound that the host knows without asking the device.
        """
        return CacheRows(self, slice(start, start + len(lengths)), new, lengths=lengths, end=end)

    def empty_rows(self, start: int, new: int, source: list[int]) -> CacheRows:
        """Return the slots from `start`, to be filled afresh by a forward of `new` tokens a row.

        Slot start + i takes row source[i] of the forward's batch, so that one prompt can fill several slots.
        """
        return CacheRows(self, slice(start, start + len(source)), new, source=source)

    def move(self, source: Tensor, target: Tensor, length: int) -> None:
        """Copy the first `length` positions of some slots over others."""
        for store in (self.keys, self.values):
            store[:, target, :, :length] = store[:, source, :, :length]


class CacheRows:
    """The slots that one forward reads and writes, the `position_ids` (1 or B, T) of its tokens and what they see.

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
        device = cache.keys.device
        self.new = new
        self.position_ids = torch.arange(new, device=device)[None]
        self.visible: Tensor | None = None
        self.source = None if source is None else torch.tensor(source, device=device)
        self.keys, self.values = cache.keys[:, slots], cache.values[:, slots]
        if lengths is not None:  # slots of unequal length: each row's new tokens go behind its own
            self.end = end
            self.row = torch.arange(len(lengths), device=device)[:, None]
            self.position_ids = self.position_ids + lengths[:, None]
            # Causal, and no further than a slot is filled: what lies behind is padding or a former response's.
            visible = torch.arange(self.end, device=device) <= self.position_ids[:, None, :, None]  # (B, 1, T, L)
            self.visible = additive(visible, cache.keys.dtype)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, (B, K, T, D), and return those to attend to, (B, K, L, D)."""
        return self._write(self.keys[layer], keys), self._write(self.values[layer], values)

    def _write(self, store: Tensor, new: Tensor) -> Tensor:
        if self.source is not None:  # empty slots: the new tokens are all there is to attend to
            store[:, :, : self.new] = new[self.source]
            return new
        store[self.row, :, self.position_ids] = new.transpose(1, 2)
        return store[:, :, : self.end]
