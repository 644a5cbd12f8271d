"""How many bytes of tensors are alive, told by the garbage collector's own word."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


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


class Alive(TorchDispatchMode):
    """Knows the memory of every tensor that is made inside but those `apart`, and how much of it is still held."""

    def __init__(self, apart: list[torch.Tensor]) -> None:
        super().__init__()
        self.apart = {tensor.untyped_storage()._cdata for tensor in apart}
        self.made: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
                continue
            memory = tensor.untyped_storage()
            if memory._cdata not in self.apart:
                self.made[memory._cdata] = memory._weak_ref(), memory.nbytes()
        return out

    def held(self, apart: int = 0) -> dict[int, int]:
        """Return the bytes of each memory that is held, without memory for `apart` numbers or more: a CPU has none of it
        until it is written.
        """
        gc.collect()
        alive = ((key, size) for key, (memory, size) in self.made.items() if not torch.UntypedStorage._expired(memory))
        return {key: size for key, size in alive if not apart or size < 2 * apart}

    def bytes(self, apart: int = 0) -> int:
        """Return the bytes that are held (`held`)."""
        return sum(self.held(apart).values())
