"""How a failure ends a program: its code, and one line."""

from __future__ import annotations

import errno

import pytest

from llamatrain.errors import BadNodeError, DiskError, LostRankError, UserError
from llamatrain.exits import guarded

CODES = [
    (UserError("lr=-1: need a number above 0"), 2),
    (DiskError("checkpoint a could not be saved"), 1),
    (OSError(errno.ENOSPC, "No space left on device", "a"), 1),
    (OSError(errno.EACCES, "Permission denied", "a"), 2),
    (BadNodeError("bad node: host1 (rank 1): link 1 MB/s, need 10 MB/s or more"), 76),
    (LostRankError("another rank is gone without a word"), 134),
]


@pytest.mark.parametrize(("error", "code"), CODES)
def test_one_line_and_a_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise error

    assert guarded(fails, leaves=False) == code
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
