"""What systems answered, as `sample` writes it, for people to rate."""

from __future__ import annotations

from collections.abc import Sequence

from llamatrain.data.kinds import PromptRow, ResponseRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows


def answered(path: str, bad: BadRows) -> dict[str, ResponseRow]:
    """Return prompt -> a system's first response to it."""
    found: dict[str, ResponseRow] = {}
    for row in read_rows(path, ResponseRow, bad):
        found.setdefault(row["prompt_id"], row)
    return found


def categories(paths: Sequence[str], bad: BadRows) -> dict[str, str]:
    """Return prompt -> its category, of files of prompts: `meta.category`, else `source`."""
    found = {}
    for path in paths:
        for row in read_rows(path, PromptRow, bad):
            meta = row.get("meta")
            own = meta.get("category") if isinstance(meta, dict) else None
            found[row["id"]] = str(own or row.get("source", ""))
    return found
