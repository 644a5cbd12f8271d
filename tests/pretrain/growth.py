"""Pretrain in this process and print how much memory is in use, as the C library counts it, every fifty steps.

python -m tests.pretrain.growth OVERRIDE...
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Mapping
from typing import Any

from llamatrain.config.compose import compose
from llamatrain.run import Run
from pretrain.__main__ import train
from pretrain.config import PretrainConfig


class Mallinfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def in_use() -> int:
    """Return the bytes that are allocated and not given back."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


class Watched(Run):
    """A run that prints what is in use."""

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log a step's metrics."""
        super().log(step, values)
        if step % 50 == 0:
            print(in_use(), flush=True)


if __name__ == "__main__":
    train.__globals__["Run"] = Watched
    train(compose("pretrain", PretrainConfig, sys.argv[1:]))
