"""The page `evaluate`: which of two systems' responses to a prompt is better, on seven points (paper 3.4.2, A.3.7).

Several people rate each prompt, three in the paper, and which system stands on which side is drawn for each of them. Rows
name the systems, whichever side they stood on: `ratings` makes wins, ties and losses of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llamatrain.data.kinds import PreferenceRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError

from .answers import answered, categories
from .compare import gold, guidelines, sides
from .config import CollectConfig
from .store import Item, Verdict
from .task import Unclear
from .verdicts import POINTS, SIDE_BY_SIDE


class Task:
    """Two systems' responses to the same prompts."""

    title, asks = "Evaluate", False

    def __init__(self, cfg: CollectConfig) -> None:
        self.cfg = cfg
        self.guidelines = guidelines("evaluate", cfg.guidelines)

    def items(self) -> Iterator[Item]:
        """Yield the prompts that both systems answered, in the first one's order, and gold items."""
        bad = BadRows(self.cfg.bad_rows)
        (a, ours), (b, theirs) = ((name, answered(path, bad)) for name, path in self.cfg.responses.items())
        both = [prompt for prompt in ours if prompt in theirs]
        if not both:
            raise UserError(
                f"systems.{a} and systems.{b} answer no prompt in common; need responses to the same prompts"
            )
        of_prompt = categories(self.cfg.prompts, bad)
        for prompt in both:
            messages = ours[prompt]["messages"]
            if messages != theirs[prompt]["messages"]:
                raise UserError(f"systems.{a} and systems.{b} answer different conversations under the id {prompt!r}")
            content = {
                "prompt_id": prompt,
                "messages": messages,
                "response_a": ours[prompt]["response"],
                "response_b": theirs[prompt]["response"],
                "system_a": a,
                "system_b": b,
            }
            yield Item(prompt, content | ({"category": of_prompt[prompt]} if prompt in of_prompt else {}))
        for preference in read_rows(self.cfg.gold, PreferenceRow, bad) if self.cfg.gold is not None else ():
            item = gold(preference)
            yield Item(item.id, item.content, known={"rating": "a_better"})
        bad.say(print)

    def view(self, item: Item, swapped: bool) -> dict[str, Any]:
        """Return the conversation and the responses in the order in which they are shown; no system is named."""
        row = item.content
        responses = tuple(row[f"response_{side}"] for side in sides(swapped))
        return {"messages": row["messages"], "responses": responses, "guidelines": self.guidelines}

    def read(self, item: Item, swapped: bool, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the rating as of system A, None where it cannot be judged, and which system stood first."""
        first, second = sides(swapped)
        said = form.get("rating", "")
        side, _, much = said.partition("_")
        rating = f"{({'left': first, 'right': second}).get(side, side)}_{much}"
        if said != "none" and (side in ("a", "b") or rating not in POINTS):
            raise Unclear("Choose one of the seven.")
        return {"rating": None if said == "none" else rating, "first": first}

    def row(self, item: Item, verdict: Verdict) -> dict[str, Any]:
        """Return a verdict with what `ratings` asks of its prompt."""
        pair = item.content
        made = {
            "kind": SIDE_BY_SIDE,
            "prompt_id": pair["prompt_id"],
            "rater": verdict.rater,
            "system_a": pair["system_a"],
            "system_b": pair["system_b"],
            **verdict.content,
            "turns": sum(message["role"] == "user" for message in pair["messages"]),
            "words": sum(len(message["content"].split()) for message in pair["messages"]),
            "words_a": len(pair["response_a"].split()),
            "words_b": len(pair["response_b"].split()),
            "seconds": verdict.seconds,
        }
        return made | ({"category": pair["category"]} if "category" in pair else {})

    def agree(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool | None:
        """Tell whether both prefer the same system, or neither."""
        ratings = (one["rating"], other["rating"])
        if None in ratings:
            return None
        signs = [(POINTS[rating] > 0) - (POINTS[rating] < 0) for rating in ratings]
        return signs[0] == signs[1]
