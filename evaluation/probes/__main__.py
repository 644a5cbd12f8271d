"""Probe what the paper observes in its models: a sense of time, use of tools, answers over temperatures (5.1)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from rich.console import Console
from rich.markup import escape

from llamatrain import atomic, checkpoint
from llamatrain.config.program import main
from llamatrain.data.rows import file_fingerprint, write_rows
from llamatrain.responses.answers import Answerer
from llamatrain.responses.models import generated_at_once
from llamatrain.run import Run

from ..results import Results
from ..terminal import plain_table, with_interval
from . import temperature, temporal, tools
from .config import ANSWERS, GROUPS, METHOD, RESULT, TEMPERATURE, TEMPORAL, TOOLS, ProbeConfig

PROBES: dict[str, ModuleType] = {TEMPORAL: temporal, TOOLS: tools, TEMPERATURE: temperature}


def probe(cfg: ProbeConfig) -> None:
    """Ask the probes of one kind and measure the answers."""
    about, folder = PROBES[cfg.kind], checkpoint.resolve(cfg.checkpoint, "ppo")
    parents = {"checkpoint": folder}
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, parents, cfg.dtype)
    data = {"probes": " ".join(map(file_fingerprint, cfg.probes))}
    with Run(cfg.run, "probe", cfg, parents, data) as run:
        run.resume({})
        who, store = Answerer(run, folder, cfg, f"probe/{cfg.kind}"), Results.of(cfg, folder)
        task, settings = f"probe_{cfg.kind}", _settings(cfg, who, data["probes"])
        known = store.known(task, settings)
        if known is None:
            answers = about.ask(cfg, who)
            store.keep(task, settings, {"figures": about.measure(answers), "rows": answers})
        else:
            run.print(f"measured before: {store.path(task, settings)}")
            answers = known["rows"]
        if run.is_main:
            write_rows(run.folder / ANSWERS, answers)
            found = about.measure(answers)
            of = {"kind": cfg.kind, "checkpoint": str(folder), "sha256": store.sha256, "format": who.form}
            made = {**of, "probes": cfg.probes, "sampling": vars(cfg.sampling), **found}
            atomic.write_json(run.folder / RESULT, made)
            run.log(0, about.flat(found))
            table = plain_table("", "", "probes", caption="95 % intervals over probes")
            for title, value in about.lines(found):
                table.add_row(escape(title), with_interval(value, ".3f"), f"{value['count']:,}")
            Console().print(table)


def _settings(cfg: ProbeConfig, who: Answerer, probes: str) -> dict[str, Any]:
    """Return all that the result depends on beside the checkpoint."""
    kind = {cfg.kind: vars(getattr(cfg, GROUPS[cfg.kind]))}
    return {"method": METHOD, "probes": probes, "max_probes": cfg.max_probes, **kind, **who.settings()}


if __name__ == "__main__":
    main("probe", ProbeConfig, probe)
