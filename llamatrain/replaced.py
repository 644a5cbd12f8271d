"""Results that were replaced: they lie beside their successors as `<name>.replaced-<what they were>` until
`llamatrain clean` removes them. Imports no torch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path

MARK = ".replaced-"
NAME = re.compile(r".+\.replaced-([0-9a-f]{12}|\d{8}-\d{6})(-\d+)?")


def move_beside(folder: Path, key: str) -> Path:
    """Rename a folder to `<name>.replaced-<key>` and return where it lies now."""
    target = _free(folder, key)
    folder.rename(target)
    return target


def move_content_beside(folder: Path, names: Iterable[str]) -> Path:
    """Move what bears these names in a folder to `<name>.replaced-<time>` and return that folder.

    A kill on the way leaves the content in two places, and all of it.
    """
    target = _free(folder, time.strftime("%Y%m%d-%H%M%S"))
    target.mkdir()
    for name in names:
        if (folder / name).exists() or (folder / name).is_symlink():
            (folder / name).rename(target / name)
    return target


def bytes_of(folder: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def size(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:,.1f} GB"


def _free(folder: Path, key: str) -> Path:
    target, number = folder.with_name(f"{folder.name}{MARK}{key}"), 1
    while target.exists():  # the same result may be made, and replaced, more than once
        number += 1
        target = folder.with_name(f"{folder.name}{MARK}{key}-{number}")
    return target
