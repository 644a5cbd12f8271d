"""Step read: the rows of a part, checked and cleaned, as pieces of text.

What cannot be cut into parts (a compressed file, a stream of the hub) is still written in pieces of the same size, so
that later steps share its work.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from llamatrain.data import rows
from llamatrain.data.kinds import DocumentRow
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError

from .cleaning import clean
from .config import Cleaning
from .pieces import PieceWriter
from .sources import Unit

_HOST = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]+)", re.I)


def host(url: str) -> str | None:
    """Return the host of a url in lower case, without www."""
    match = _HOST.match(url.strip())
    return match[1].lower().rstrip(".").removeprefix("www.") or None if match else None


def read_unit(folder: Path, unit: Unit, cleaning: Cleaning, bad_rows: str, piece_bytes: int) -> None:
    """Write the pieces of a unit: folders 000000 and on, one at least."""
    place = rows.place(unit.part)
    counts: Counter[str] = Counter()
    writer, bad = PieceWriter(folder / "000000"), BadRows(bad_rows)
    number = 0
    try:
        for row_number, row in rows.read_part(unit.part, DocumentRow, bad, source="-"):
            text = row["text"]
            counts["read"] += 1
            counts["read_bytes"] += len(text) if text.isascii() else len(text.encode())
            url = row.get("url")
            writer.add(clean(text, cleaning, counts), row_number, host(url) if url else None)
            if writer.bytes >= piece_bytes:
                # The unit's raw rows and bad ones are counted in its last piece: row numbers run through all of them.
                writer.close(counts, place=place, rows=0)
                number, counts = number + 1, Counter()
                writer = PieceWriter(folder / f"{number:06d}")
    except UserError:
        writer.file.close()
        raise
    counts["bad_rows"] = bad.counts.total()
    writer.close(counts, place=place, rows=rows.count_part(unit.part), bad=bad.content())
