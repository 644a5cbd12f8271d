"""Which stages of a pipeline measure what a stage made, and the same stages for another of its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamatrain.errors import UserError
from llamatrain.keys import flatten

from ..graph import DATA, REFERENCE, Graph, mapped, references
from ..programs import PROGRAMS, nearest

if TYPE_CHECKING:  # the graph needs none of what plans it
    from ..plan import Place, Planned

MEASURED = "measured"  # folder of a pipeline: <stage>/<hash of a checkpoint>/ holds what is known of it


def measuring(stages: Iterable[tuple[str, str, Mapping[str, Any]]], final: str) -> dict[str, dict[str, Any]]:
    """Return name -> values of those among stages (name, program, values) that measure the checkpoint `final`.

    They read it, or what one of them made of it. Of a comparison of models the others are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, program, values in stages:
        if PROGRAMS[program].group != "Measuring":
            continue
        models, baseline = values.get("models"), values.get("baseline")
        if isinstance(models, Mapping):
            own = {model: about for model, about in models.items() if about.get("checkpoint") == final}
            if own:
                found[name] = {**values, "models": own, **({"baseline": None} if baseline not in own else {})}
        elif values.get("checkpoint") == final or found.keys() & set(references(values.get("responses"))):
            found[name] = dict(values)
    return found


def read_by(found: Mapping[str, Mapping[str, Any]], final: str) -> list[str]:
    """Return all files of stages that measuring stages read, but the checkpoint."""
    texts = [value for values in found.values() for value in flatten(values).values() if isinstance(value, str)]
    named = dict.fromkeys(match[0] for text in texts for match in REFERENCE.finditer(text))
    return [file for file in named if file != final]


def measure_kept(g: Graph, name: str) -> None:
    """Measure all kept checkpoints of a stage as its last one is: nothing waits for it."""
    stage = g.stages.get(name)
    if stage is None or "final" not in PROGRAMS[stage.program].makes:
        trained = [one.name for one in g.stages.values() if "final" in PROGRAMS[one.program].makes]
        raise UserError(
            f"measure_kept: there is no stage '{name}' that trains{nearest(name, trained)}  (there are {', '.join(trained)})"
        )
    found = measuring(((one.name, one.program, one.settings) for one in g.stages.values()), stage.final)
    if not found:
        g.leave_out(f"the course of {name}", "data.prompts_eval or data.documents_eval")
        return
    g.add("measure", f"measure_{name}", checkpoints=stage / "checkpoints", after=read_by(found, stage.final))


def of_checkpoint(
    one: Planned, values: Mapping[str, Any], checkpoint: Path, final: str, beside: Collection[str], place: Place
) -> Planned:
    """Return a stage of the pipeline at `place` that measures `checkpoint` instead of `final`, elsewhere.

    Stages in `beside` are repeated there like it; of all others the files are the pipeline's own.
    """

    def where(match: re.Match[str]) -> str:
        if match[1] in beside:
            return match[0]
        if match[0] == final:
            return str(checkpoint)
        return f"{place.data_root if match[1] == DATA else place.folder / match[1]}{match[2]}"

    run = {**one.run, "wandb": {**one.run["wandb"], "mode": "disabled"}}  # the course is one run there
    return replace(one, values=mapped(dict(values), lambda text: REFERENCE.sub(where, text)), run=run, source="")
