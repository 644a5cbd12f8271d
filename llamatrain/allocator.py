"""What becomes of memory that tensors on a CPU give back."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
_LARGEST = 32 << 20  # bytes; glibc maps larger blocks whatever the setting


def keep_freed_memory() -> None:
    """Let the process keep freed memory for its next tensors; without effect where the C library is not glibc.

    A training step frees and takes the same tensors again. By default glibc returns those of some megabytes to the
    system each time, and to have their pages back takes about a tenth of a small model's step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, -1)  # never
