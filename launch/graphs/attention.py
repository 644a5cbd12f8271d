"""Ghost Attention in the graph: rows from the newest model, and how long every chat model keeps to an instruction (paper 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..graph import Graph, Stage

if TYPE_CHECKING:
    from .chat import Data


def ghost_attention(g: Graph, data: Data, world: Stage | None, policy: str, number: int | None) -> str:
    """Have the newest model answer dialogues under instructions that only their first turn keeps; return the rows' file."""
    dialogues = data.long_dialogues or data.dialogues
    made = g.add("gatt", checkpoint=policy, dialogues=dialogues, constraints=_constraints(world), round=number)
    return made / "gatt.jsonl"


def recall(g: Graph, data: Data, world: Stage | None, models: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """Measure each chat model where one learned from Ghost Attention; return model -> what `evaluate` reads of it."""
    if not any(stage.program == "gatt" for stage in g.stages.values()):
        return {}
    dialogues = data.long_dialogues_eval or data.dialogues_eval
    if not dialogues:
        g.leave_out("how long the models keep to an instruction", "data.dialogues_eval")
        return {}
    asked = {"dialogues": dialogues, "constraints": _constraints(world)}
    stages = {
        name: g.add("recall", f"recall_{name}", checkpoint=model, **asked)
        for name, model in models.items()
        if name != "base"
    }
    return {name: {"recall": stage / "recall.jsonl"} for name, stage in stages.items()}


def _constraints(world: Stage | None) -> str | None:
    return None if world is None else world / "constraints.json"
