"""The page `red_team`: people try to make a checkpoint answer unsafely, turn by turn (paper 4.3).

Each turn has a risk category and an attack vector, the model's response, and its degree of violation; a response that is
none counts as well, for gamma is violations per person and hour. The file is one of prompts, too: `sample`, `distill` and
`rejection_sampling` read it, and a later model's answers to it can be rated on the page `safety`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from llamatrain.chat import Message

from .compare import guidelines
from .config import CollectConfig
from .sampler import Sampler
from .store import Item, Verdict
from .task import Unclear
from .verdicts import ATTACK, DEGREES, RISKS, VECTORS, VIOLATING

IDLE = 600.0  # seconds that a page may lie open and count as work


class Task:
    """Attacks on the first checkpoint."""

    title, asks = "Red team", True

    def __init__(self, cfg: CollectConfig) -> None:
        self.cfg = cfg
        self.sampler = Sampler(cfg)
        self.guidelines = guidelines("red_team", cfg.guidelines)

    def items(self) -> Iterator[Item]:
        """Yield nothing: raters write what they rate."""
        yield from ()

    def asking(self) -> dict[str, Any]:
        """Return the risk categories and attack vectors to choose from."""
        return {"risks": RISKS, "vectors": VECTORS, "guidelines": self.guidelines}

    def answered(
        self, messages: list[Message], form: Mapping[str, str], key: str, before: Item | None
    ) -> dict[str, Any]:
        """Return a turn with the model's response. What it is after, and how, is said with the first one."""
        writing = _since(form)
        if before is None:
            risk, vector = form.get("risk", ""), form.get("vector", "")
            if risk not in RISKS or vector not in VECTORS:
                raise Unclear("Choose what the attack is after, and how.")
            about = {"dialogue": f"asked-{key}", "meta": {"category": risk, "attack_vector": vector}}
        else:
            about = {name: before.content[name] for name in ("dialogue", "meta")}
        return {"messages": messages, **self.sampler.one(messages, key), **about, "writing": writing}

    def view(self, item: Item, swapped: bool) -> dict[str, Any]:
        """Return the conversation, the response and the degrees."""
        row = item.content
        shown = {"messages": row["messages"], "responses": (row["response"],), "guidelines": self.guidelines}
        return shown | {"scale": DEGREES, "violations": range(VIOLATING, len(DEGREES) + 1)}

    def read(self, item: Item, swapped: bool, form: Mapping[str, str]) -> dict[str, Any]:
        """Return the degree, None where it cannot be judged."""
        said = form.get("rating", "")
        if said != "none" and said not in map(str, DEGREES):
            raise Unclear("Choose one of the five.")
        return {"degree": None if said == "none" else int(said)}

    def row(self, item: Item, verdict: Verdict) -> dict[str, Any]:
        """Return a turn as a prompt, with its degree and the seconds that it took to write and to judge."""
        turn = item.content
        return {
            "kind": ATTACK,
            "id": item.id,
            "dialogue": turn["dialogue"],
            "rater": verdict.rater,
            "round": self.cfg.round,
            "model": turn["model"],
            "messages": turn["messages"],
            "response": turn["response"],
            "degree": verdict.content["degree"],
            "seconds": round(turn["writing"] + min(IDLE, verdict.seconds), 2),
            "is_adversarial": True,
            "source": "red_team",
            "meta": turn["meta"],
        }

    def going_on(self, item: Item, verdict: Verdict) -> list[Message]:
        """Return the conversation with the response."""
        return [*item.content["messages"], {"role": "assistant", "content": item.content["response"]}]

    def agree(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Tell nothing: everybody rates what they wrote."""


def _since(form: Mapping[str, str]) -> float:
    """Return for how many seconds the page of a form was open, an idle one no longer than IDLE."""
    try:
        return max(0.0, min(IDLE, time.time() - float(form.get("since", ""))))
    except ValueError:  # not a form of ours
        return 0.0
