"""How many bytes of tensors are alive, told by the garbage collector's own word."""

from __future__ import annotations

import weakref

import torch


class Held:
    """Counts the bytes of the tensors that went through `copy` and of what `take` says, now and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def take(self, size: int) -> None:
        """Count so many bytes more; negative ones are given back."""
        self.now += size
        self.peak = max(self.peak, self.now)

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy that counts until no tensor shares its memory any more."""
        raw = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().copy()
        self.take(raw.nbytes)
        weakref.finalize(raw, self.take, -raw.nbytes)
        return torch.from_numpy(raw).view(tensor.dtype).view(tensor.shape)
