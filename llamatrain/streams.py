"""Standard input, output and error of a program: those that were closed when it started, and a terminal that went away."""

from __future__ import annotations

import errno
import io
import os
import sys

# A terminal obeys control characters (C0, C1): what a model writes is only shown.
CONTROLS = dict.fromkeys([code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"])


def open_closed() -> None:
    """Let streams that were closed at the start (`>&-`) lead nowhere: a file opened later would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number: this one
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115  (for the life of the process)
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def replace_unknown_characters() -> None:
    """Let standard output show a question mark for what its encoding lacks: an ASCII terminal ends no run."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def outlive_terminal() -> None:
    """Let output to a terminal lead nowhere from the moment on at which that is closed, even before SIGHUP tells of it.

    Every later write would fail, in the middle of the work.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty():  # the former one stays, as sys.__stdout__ and sys.__stderr__
            about = stream.encoding, stream.errors, None, stream.line_buffering, stream.write_through
            setattr(sys, name, _Terminal(stream.buffer, *about))


class _Terminal(io.TextIOWrapper):
    """Text to a terminal. A write is one call into C: no signal comes in its middle, and nothing is written twice."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            _lead_nowhere(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            _lead_nowhere(error)
            super().flush()


def _lead_nowhere(error: OSError) -> None:
    """Leave a terminal that was closed; raise any other error."""
    if error.errno != errno.EIO:
        raise error
    leave_closed_terminal()


def leave_closed_terminal() -> None:
    """Let output lead nowhere where its terminal was closed."""
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def shown(text: str) -> str:
    """Return a model's text as it may go to a terminal."""
    return text.translate(CONTROLS)
