"""The page `compare`: which of two responses is better, and by how much (paper 3.2.1).

Helpfulness is asked on harmless prompts, safety on adversarial ones, by guidelines of their own; with safety goes the
label which of the two are safe. As in the paper, a pair whose chosen response is unsafe while the other is safe is dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llamatrain.chat import Message
from llamatrain.data.kinds import RATINGS, ComparisonRow, PreferenceRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows

from .config import CollectConfig
from .store import Item, Verdict
from .task import Unclear

SIDES = ("a", "b")
SAFE = {"left": (True, False), "right": (False, True), "both": (True, True), "neither": (False, False)}


class Task:
    """Comparisons to rate, as they stand in files."""

    title = "Compare"

    def __init__(self, cfg: CollectConfig) -> None:
        self.cfg = cfg
        self.guidelines = {kind: guidelines(kind, cfg.guidelines) for kind in ("helpfulness", "safety")}
        self.sampler = None
        if cfg.checkpoint_a is not None:
            from .sampler import Sampler  # torch and the models: where nobody asks, the page is there in a second

            self.sampler = Sampler(cfg)
        self.asks = self.sampler is not None

    def items(self) -> Iterator[Item]:
        """Yield the comparisons as they stand in the file, and gold items: preferences whose chosen response is known."""
        bad = BadRows(self.cfg.bad_rows)
        if self.cfg.comparisons is not None:
            rows = read_rows(self.cfg.comparisons, ComparisonRow, bad)
            yield from (Item(row["id"], {**row, "kind": self._kind(row)}) for row in rows)
        if self.cfg.gold is not None:
            yield from map(gold, read_rows(self.cfg.gold, PreferenceRow, bad))
        bad.say(print)

    def _kind(self, row: ComparisonRow) -> str:
        return self.cfg.kind or ("safety" if row["is_adversarial"] else "helpfulness")

    def view(self, item: Item, swapped: bool) -> dict[str, Any]:
        """Return the conversation, the responses in the order in which they are shown, and how to rate them."""
        row = item.content
        first, second = (row[f"response_{side}"] for side in sides(swapped))
        guidelines = self.guidelines[row["kind"]]
        return {
            "messages": row["messages"],
            "responses": (first, second),
            "kind": row["kind"],
            "guidelines": guidelines,
        }

    def read(self, item: Item, swapped: bool, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the choice (a, b, or None where it cannot be judged), the rating, and which responses are safe."""
        side, _, rating = form.get("rating", "").partition(":")
        if (side, rating) == ("none", ""):
            return {"choice": None}
        if side not in ("left", "right") or rating not in RATINGS:
            raise Unclear("Choose how much better one of the responses is.")
        first, second = sides(swapped)
        verdict: dict[str, Any] = {"choice": first if side == "left" else second, "rating": rating}
        if item.content["kind"] == "safety":
            if form.get("safe") not in SAFE:
                raise Unclear("Say which of the responses are safe, then how much better one is.")
            safe = dict(zip((first, second), SAFE[form["safe"]], strict=True))
            verdict |= {f"safe_{name}": safe[name] for name in SIDES}
        return verdict

    def row(self, item: Item, verdict: Verdict) -> dict[str, Any] | None:
        """Return a preference; None where the pair could not be judged, or its chosen response alone is unsafe."""
        said, pair = verdict.content, item.content
        if said["choice"] is None:
            return None
        chosen, rejected = said["choice"], "b" if said["choice"] == "a" else "a"
        labels = {}
        if "safe_a" in said:
            labels = {"chosen_safe": said[f"safe_{chosen}"], "rejected_safe": said[f"safe_{rejected}"]}
            if not labels["chosen_safe"] and labels["rejected_safe"]:
                return None
        models = {f"model_{name}": pair[f"model_{side}"] for name, side in (("chosen", chosen), ("rejected", rejected))}
        return {
            "messages": pair["messages"],
            "chosen": pair[f"response_{chosen}"],
            "rejected": pair[f"response_{rejected}"],
            "kind": pair["kind"],
            "rating": said["rating"],
            **labels,
            "annotator": verdict.rater,
            "meta": {"comparison": item.id, "is_adversarial": pair["is_adversarial"], **models},
        }

    def asking(self) -> dict[str, Any]:
        """Return which kind is asked, where it is not the rater's choice."""
        return {"kind": self.cfg.kind}

    def answered(
        self, messages: list[Message], form: Mapping[str, str], key: str, before: Item | None
    ) -> dict[str, Any]:
        """Return a comparison of two sampled responses; of a first turn the form says whether it is adversarial."""
        assert self.sampler is not None
        adversarial = form.get("adversarial") == "yes" if before is None else before.content["is_adversarial"]
        adversarial = adversarial or self.cfg.kind == "safety"
        kind = self.cfg.kind or ("safety" if adversarial else "helpfulness")
        return {"messages": messages, **self.sampler.pair(messages, key), "is_adversarial": adversarial, "kind": kind}

    def going_on(self, item: Item, verdict: Verdict) -> list[Message] | None:
        """Return the conversation with the chosen response."""
        choice = verdict.content["choice"]
        if choice is None:
            return None
        return [*item.content["messages"], {"role": "assistant", "content": item.content[f"response_{choice}"]}]

    def agree(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
        """Tell whether both choose the same response."""
        choices = (one["choice"], other["choice"])
        return None if None in choices else choices[0] == choices[1]


def guidelines(name: str, own: str | None) -> str:
    """Return the guidelines of a page, or the user's own file."""
    path = Path(own) if own else Path(__file__).parent / "guidelines" / f"{name}.txt"
    return path.read_text(encoding="utf-8")


def sides(swapped: bool) -> tuple[str, str]:
    """Return which response of a pair stands left, and which right."""
    return ("b", "a") if swapped else ("a", "b")


def gold(row: PreferenceRow) -> Item:
    """Return a preference as an item whose answer is known."""
    name = hashlib.sha256(json.dumps([row["messages"], row["chosen"], row["rejected"]]).encode()).hexdigest()[:16]
    content = {
        "messages": row["messages"],
        "response_a": row["chosen"],
        "response_b": row["rejected"],
        "kind": row["kind"],
        "is_adversarial": row["kind"] == "safety",
        "model_a": "gold",
        "model_b": "gold",
    }
    return Item(f"gold-{name}", content, known={"choice": "a"})
