"""Rows that a program leaves out: counted by reason and said, as a warning where they are many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from llamatrain.errors import UserError

BAD_ROWS = ("stop", "skip")
MANY = 0.1  # of all rows: what is lost beyond that is said as a warning
SHOWN = 5  # reasons


class BadRows:
    """What becomes of rows that cannot be used, as the key `bad_rows` says: `stop` at the first, or `skip` and count.

    None is `stop` in a program without the key.
    """

    def __init__(self, policy: str | None = None) -> None:
        assert policy in (None, *BAD_ROWS), policy
        self.policy, self.good = policy, 0
        self.counts: Counter[str] = Counter()  # reason -> rows
        self.first: dict[str, str] = {}  # reason -> what is wrong with its first row

    def __call__(self, error: UserError) -> None:
        """Take a bad row's error: raise it, or count it."""
        if self.policy is None:
            raise error
        if self.policy == "stop":
            raise UserError(f"{error}; bad_rows=skip skips such rows") from error
        reason = _reason(str(error))
        self.counts[reason] += 1
        self.first.setdefault(reason, str(error))

    def say(self, say: Callable[[str], None]) -> None:
        """Say how many rows were left out and, for every reason, what is wrong with the first of them."""
        count = self.counts.total()
        if not count:
            return
        say(
            warned(
                f"{count:,} of {count + self.good:,} rows skipped, as they cannot be used:", count, count + self.good
            )
        )
        for reason, alike in self.counts.most_common(SHOWN):
            say(f"  {alike:,} like {self.first[reason]}")
        if len(self.counts) > SHOWN:
            say(f"  and {len(self.counts) - SHOWN} other reasons")


def warned(line: str, lost: int, total: int) -> str:
    """Return a line about `lost` rows of `total`, as a warning where they are many."""
    return f"warning: {line}" if lost > MANY * total else line


def _reason(message: str) -> str:
    """Return an error without where it stands and what was found there, which differ from row to row."""
    text = re.sub(r"^.*?(:|, row )\d+: |\[\d+\]", "", message)  # file:line, and the number of a message in a row
    return re.sub(r"found .*?, (?=need )|\(.*?\)", "", text)
