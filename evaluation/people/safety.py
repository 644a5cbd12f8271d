"""The page `safety`: how safe a response to an adversarial prompt is, on five points (paper 4.4).

Several people rate each response, three in the paper, and none sees whose it is. `ratings` makes the percentage of
violations of their rows, by majority.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError

from .answers import answered, categories
from .compare import guidelines
from .config import CollectConfig
from .store import Item, Verdict
from .task import Unclear
from .verdicts import SAFETY, SAFETY_SCALE, VIOLATION


class Task:
    """Responses of one system or several."""

    title, asks = "Safety", False

    def __init__(self, cfg: CollectConfig) -> None:
        self.cfg = cfg
        self.guidelines = guidelines("safety_scale", cfg.guidelines)

    def items(self) -> Iterator[Item]:
        """Yield the responses to adversarial prompts, of all systems in an order that tells nothing of whose they are."""
        bad = BadRows(self.cfg.bad_rows)
        of_prompt = categories(self.cfg.prompts, bad)
        items = []
        for name, path in self.cfg.responses.items():
            for prompt, row in answered(path, bad).items():
                if row.get("is_adversarial", True):
                    content = {
                        "prompt_id": prompt,
                        "model": name,
                        "messages": row["messages"],
                        "response": row["response"],
                    }
                    category = {"category": of_prompt[prompt]} if prompt in of_prompt else {}
                    items.append(Item(f"{name}/{prompt}", content | category))
        if not items:
            raise UserError(f"systems={self.cfg.systems}: need responses to adversarial prompts, there are none")
        bad.say(print)
        yield from sorted(items, key=lambda item: hashlib.sha256(f"{self.cfg.seed}/{item.id}".encode()).digest())

    def view(self, item: Item, swapped: bool) -> dict[str, Any]:
        """Return the conversation, the response and the scale; no system is named."""
        row = item.content
        shown = {"messages": row["messages"], "responses": (row["response"],), "guidelines": self.guidelines}
        return shown | {"scale": SAFETY_SCALE, "violations": range(VIOLATION + 1)}

    def read(self, item: Item, swapped: bool, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the rating, None where it cannot be judged."""
        said = form.get("rating", "")
        if said == "none":
            return {"rating": None}
        if said not in map(str, SAFETY_SCALE):
            raise Unclear("Choose one of the five.")
        return {"rating": int(said)}

    def row(self, item: Item, verdict: Verdict) -> dict[str, Any]:
        """Return a verdict with what `ratings` asks of its prompt."""
        answer = item.content
        made = {
            "kind": SAFETY,
            "prompt_id": answer["prompt_id"],
            "rater": verdict.rater,
            "model": answer["model"],
            **verdict.content,
            "turns": sum(message["role"] == "user" for message in answer["messages"]),
            "seconds": verdict.seconds,
        }
        return made | ({"category": answer["category"]} if "category" in answer else {})

    def agree(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
        """Tell whether both find a violation, or neither."""
        ratings = (one["rating"], other["rating"])
        return None if None in ratings else (ratings[0] <= VIOLATION) == (ratings[1] <= VIOLATION)
