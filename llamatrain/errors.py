"""The user's foreseeable mistakes: one clear message, exit code 2, no traceback."""

from __future__ import annotations

import errno
import re
from pathlib import Path

MOST = 2000  # characters of a message


class UserError(ValueError):
    """A mistake the user can mend: the message names the key or the file and line, the value, and what is needed."""


class DiskError(UserError):
    """A disk does not take what a run writes, mostly as it is full: no fault of the command, exit code 1."""


class BadNodeError(Exception):
    """Hosts that a run cannot work on, named: exit code 76."""


class LostRankError(Exception):
    """Another rank is gone without a word, killed or with its host: exit code 134, after which a job is started again."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that another program makes is not there."""

    def __str__(self) -> str:
        return str(self.args[0])


def missing(path: str | Path, made_by: str) -> MissingFileError:
    """Return the error for a file that is not there, naming the program that makes it."""
    hub = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)) and not Path(path).parent.exists()
    hint = f" (a name on the hub? `hf download {path} --local-dir FOLDER` first)" if hub else ""
    return MissingFileError(f"{path} does not exist; `llamatrain {made_by}` makes it{hint}")


def show(value: object) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value[:60] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def no_space(error: BaseException) -> bool:
    """Tell whether a disk is full, or the user's share of it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def mistake(error: BaseException) -> str | None:
    """Return in one line what the user can mend: a UserError, or a file that cannot be read or written; else None."""
    if isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{_path(error.filename)} cannot be read or written: {error.strerror}"
    else:
        return None
    line = " ".join(text.split("\n"))
    return line if len(line) <= MOST else f"{line[:MOST]}..."


def _path(name: object) -> str:
    text = str(name)
    return text if len(text) <= 255 else f"{text[:80]}... ({len(text)} characters)"
