"""The user's foreseeable mistakes: one clear message, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path


class UserError(ValueError):
    """A mistake the user can mend: the message names the key or the file and line, the value, and what is needed."""


class MissingFileError(UserError, FileNotFoundError):
    """A file that another program makes is not there."""

    def __str__(self) -> str:
        return str(self.args[0])


def missing(path: str | Path, made_by: str) -> MissingFileError:
    """Return the error for a file that is not there, naming the program that makes it."""
    return MissingFileError(f"{path} does not exist; `llamatrain {made_by}` makes it")
