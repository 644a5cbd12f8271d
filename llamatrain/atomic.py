"""Files and folders that appear whole: written under a temporary name, brought to the disk, then renamed.

A kill or a power cut leaves the old content or the new one, never a part of it nor an empty file. Imports no torch.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` where the block succeeds; otherwise `path` stays as it was.

    The temporary name is a function of `path`, so that a kill leaves one file at most, which the next attempt writes over.
    """
    temporary = beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # also a signal's: nothing half-written stays beside
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_link(path: Path, target: Path) -> None:
    """Point the symbolic link `path` at `target`."""
    temporary = beside(path)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)
    sync(path.parent)


def publish(folder: Path, target: Path) -> None:
    """Rename a folder that is complete to `target`, after bringing everything in it to the disk.

    Raises OSError where `target` is there and not empty.
    """
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            sync(path)
    os.rename(folder, target)  # noqa: PTH104 (as os.replace)
    sync(target.parent)


def sync(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do it for folders
            raise
    finally:
        os.close(descriptor)


def beside(path: Path) -> Path:
    """Return the temporary name under which a file is written: all that a kill leaves of it."""
    return path.with_name(f".{path.name}.tmp")
