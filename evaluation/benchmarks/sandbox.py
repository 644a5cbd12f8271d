"""Runs a program that a model wrote where it cannot do harm, and tells whether it came to its end.

Each program runs in namespaces of its own (user, mount, pid, network, ipc, host name), as a user without rights: of the
file system it sees Python and the system's libraries, read-only, and a small /tmp of its own; no network, no other
process. Time, memory, processes and file sizes are limited. As its first process ends, the kernel ends all others with it.

    program -> launcher (`sandbox_launcher.py`, a process of its own) -> the same file as first process of the namespace
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from llamatrain.errors import UserError

LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
MEMORY = 1 << 30  # bytes of address space
GRACE = 10.0  # seconds for the launcher itself, on a machine that is busy
PASSED = b"passed"


def passes(program: str, seconds: float) -> bool:
    """Run a program for so many seconds at most; tell whether it ended by reaching its end, without an exception."""
    return _outcome(program, seconds)[0]


@cache
def need_sandbox() -> None:
    """Raise UserError where this machine has no sandbox: programs are never run without."""
    passed, said = _outcome("pass", 20.0)
    if not passed:
        raise UserError(
            f"run_code=true: no sandbox can be made here ({said or 'a program that does nothing did not end'}): need Linux with "
            "user namespaces (sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces above 0), in a "
            "container its --security-opt seccomp=unconfined"
        )


def _outcome(program: str, seconds: float) -> tuple[bool, str]:
    """Return whether a program passed, and what the launcher said where it could not run it."""
    read, write = os.pipe()
    try:
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(write), str(seconds), str(MEMORY)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=[write], env={}
        ) as launcher:
            os.close(write)
            write = -1
            try:
                _, said = launcher.communicate(program.encode(), timeout=seconds + GRACE)
            except subprocess.TimeoutExpired:  # its death is the sandbox's, too
                launcher.kill()
                return False, "it did not start in time"
        os.set_blocking(read, False)
        with contextlib.suppress(BlockingIOError):
            return os.read(read, len(PASSED)) == PASSED, said.decode(errors="replace").strip()
        return False, said.decode(errors="replace").strip()
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
