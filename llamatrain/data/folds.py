"""Which of a source's rows are meant: a fold, by a hash of conversations, preferences of a kind, a share of the adversarial."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamatrain.data.files import Row
from llamatrain.errors import UserError

if TYPE_CHECKING:  # who asks about many rows has loaded it
    import numpy as np
    from numpy.typing import NDArray

SHARE = re.compile(r"(.+?)(?:@(helpfulness|safety))?(?:@(fold|without)(\d+)/(\d+))?(?:@adversarial(\d+(?:\.\d+)?)%)?")


def conversation_key(row: Row) -> str:
    """Return the text by which rows fall into folds: the first user message, or the document, or the id."""
    for message in row.get("messages", ()):
        if message["role"] == "user":
            return str(message["content"]).strip()
    return str(row.get("text") or row.get("prompt_id") or "")


def conversation_hash(row: Row) -> int:
    """Return the number by which rows fall into folds: `fold0/5` are those that divide by five."""
    return int.from_bytes(hashlib.sha256(conversation_key(row).encode()).digest()[:8], "big")


def adversarial_place(row: Mapping[str, Any]) -> float:
    """Return a number in [0, 100) by which a share of the adversarial rows is taken; -1 of a harmless row, which any has.

    By a hash of the whole conversation: several answers to a prompt are several rows.
    """
    if not row.get("is_adversarial"):
        return -1.0
    content = json.dumps(row.get("messages"), ensure_ascii=False, sort_keys=True)
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:6], "big") / 2**48 * 100


@dataclass(frozen=True)
class Share:
    """Which of a source's rows are meant: preferences of a kind, one of `count` parts by a hash of the conversation, or
    all parts but that one, and of adversarial rows so many per cent.
    """

    kind: str | None
    without: bool
    part: int
    count: int
    adversarial: float | None = None

    def holds(self, row: Row) -> bool:
        if self.kind is not None and row.get("kind") != self.kind:
            return False
        if self.adversarial is not None and adversarial_place(row) >= self.adversarial:
            return False
        return (conversation_hash(row) % self.count == self.part) != self.without

    def among(
        self,
        conversations: NDArray[np.uint64],
        kinds: NDArray[np.str_] | None,
        adversarial: NDArray[np.float64] | None = None,
    ) -> NDArray[np.bool_]:
        """Tell the same of many rows: by the hashes of their conversations, kinds of preferences, `adversarial_place`s."""
        held: NDArray[np.bool_] = (conversations % self.count == self.part) != self.without
        if self.adversarial is not None:
            assert adversarial is not None, "dialogues have it"
            held &= adversarial < self.adversarial
        return held if self.kind is None else held & (kinds == self.kind)

    def __str__(self) -> str:
        fold = f"{'without' if self.without else 'fold'}{self.part}/{self.count}"
        fold = fold if self.kind is None else f"{self.kind} {fold}"
        return fold if self.adversarial is None else f"{fold} adversarial {self.adversarial:g}"


def split_share(source: str) -> tuple[str, Share | None]:
    """Split a source into the whole of it and which of its rows are meant (None: all)."""
    match = SHARE.fullmatch(source)
    if match is None or match[2] is match[3] is match[6] is None:
        return source, None
    part, count = (int(match[4]), int(match[5])) if match[3] else (0, 1)
    if part >= count:
        raise UserError(f"{source}: fold {part} of {count} does not exist, need 0 to {count - 1}")
    percent = None if match[6] is None else float(match[6])
    if percent is not None and percent > 100:
        raise UserError(f"{source}: {percent:g} % of the adversarial rows, need 0 to 100")
    return match[1], Share(match[2], match[3] == "without", part, count, percent)
