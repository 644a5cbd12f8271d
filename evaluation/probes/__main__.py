"""Probe what the paper observes in its models: a sense of time, use of tools, answers over temperatures (5.1)."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatrain import atomic, checkpoint, manifest
from llamatrain.config.program import main
from llamatrain.data.rows import file_fingerprint, write_rows
from llamatrain.responses.answers import Answerer, format_of
from llamatrain.responses.models import generated_at_once
from llamatrain.run import Run

from ..results import Results, default_folder
from . import temperature, temporal, tools
from .config import ANSWERS, AUTO, GROUPS, METHOD, RESULT, TEMPERATURE, TEMPORAL, TOOLS, ProbeConfig

PROBES: dict[str, ModuleType] = {TEMPORAL: temporal, TOOLS: tools, TEMPERATURE: temperature}


def probe(cfg: ProbeConfig) -> None:
    """Ask the probes of one kind and measure the answers."""
    about, parents = PROBES[cfg.kind], {"checkpoint": checkpoint.resolve(cfg.checkpoint, "ppo")}
    folder = parents["checkpoint"]
    form = format_of(folder) if cfg.format == AUTO else cfg.format
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, parents, cfg.dtype)
    data = {"probes": " ".join(map(file_fingerprint, cfg.probes))}
    with Run(cfg.run, "probe", cfg, parents, data) as run:
        run.resume({})
        store = Results(Path(cfg.results) if cfg.results else default_folder(cfg.run.dir), folder)
        task, settings = f"probe_{cfg.kind}", _settings(cfg, form, data["probes"])
        known = store.known(task, settings)
        if known is None:
            noise, batch = f"probe/{cfg.kind}", cfg.generation_batch_size
            who = Answerer(run, folder, cfg.tokenizer, cfg.sampling, noise, batch, cfg.dtype, form)
            answers = about.ask(cfg, who)
            store.keep(task, settings, {"figures": about.measure(answers), "rows": answers})
        else:
            run.print(f"measured before: {store.path(task, settings)}")
            answers = known["rows"]
        if run.is_main:
            write_rows(run.folder / ANSWERS, answers)
            found = about.measure(answers)
            sha256 = manifest.fingerprint(folder)
            of = {"kind": cfg.kind, "checkpoint": str(folder), "sha256": sha256, "format": form, "probes": cfg.probes}
            atomic.write_json(run.folder / RESULT, {**of, "sampling": vars(cfg.sampling), **found})
            run.log(0, about.flat(found))
            table = Table(
                box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption="95 % intervals over probes"
            )
            table.caption_justify = "left"
            for title in ("", "", "probes"):
                table.add_column(title, justify="right" if title else "left")
            for title, value in about.lines(found):
                spread = "" if value["low"] is None else f" ({value['low']:.3f} to {value['high']:.3f})"
                table.add_row(escape(title), f"{value['mean']:.3f}{spread}", f"{value['count']:,}")
            Console().print(table)


def _settings(cfg: ProbeConfig, form: str, probes: str) -> dict[str, Any]:
    """Return all that the result depends on beside the checkpoint."""
    tokenizer = file_fingerprint(cfg.tokenizer) if cfg.tokenizer and Path(cfg.tokenizer).is_file() else cfg.tokenizer
    own = {
        "method": METHOD,
        "probes": probes,
        "max_probes": cfg.max_probes,
        "format": form,
        "sampling": vars(cfg.sampling),
    }
    kind = {cfg.kind: vars(getattr(cfg, GROUPS[cfg.kind]))}
    return {**own, **kind, "seed": cfg.run.seed, "dtype": cfg.dtype, "tokenizer": tokenizer}


if __name__ == "__main__":
    main("probe", ProbeConfig, probe)
