"""What a pipeline or a program will take, before it starts: memory per GPU, batches, time, energy, money, and what would fit.

    llamatrain plan preset=llama2_7b gpus=64
    llamatrain plan pipeline preset=llama2_70b cluster=a100_80g_infiniband cluster.nodes=32 resources.ppo.nodes=4
    llamatrain plan ppo preset=llama2_70b gpus=8
    llamatrain plan pretrain preset=llama2_70b gpus=2000 simulate=true

Arithmetic alone: weights, gradients, optimizer states and activations are held against a CPU's; what a GPU holds and how long
it takes are predictions. Exit code 2 where something does not fit.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from llamatrain.config import program
from llamatrain.config.compose import compose
from llamatrain.config.options import asks
from llamatrain.config.presets import preset_overrides
from llamatrain.errors import UserError
from llamatrain.given import Given

from ..forecast import drawn_out, job_of, played
from ..pipeline import Pipeline, PipelineConfig, divided
from ..plan import plan_stages
from ..programs import find, with_keys
from ..slurm.arguments import split
from . import tables
from .chain import Estimated, estimated, grouped, of_program, of_stages, on_cluster
from .config import PlanConfig
from .fit import refusals
from .measured import known

OWN = ("program", "cluster", "resources", "gpus", "rates", "failures", "simulate", "trials_seed", "drawing", "measured")
WIDTH = 100


def planned(cfg: PlanConfig, theirs: Sequence[str]) -> tuple[list[Estimated], Given, str]:
    """Return the plans of a pipeline's stages or of a program, what was taken as known, and a title."""
    on = on_cluster(cfg.cluster, cfg.resources)
    if cfg.program != "pipeline":
        name = find(cfg.program) or cfg.program
        settings, given = of_program(name, theirs)
        return estimated([(name, name, settings)], given, on), given, name
    pipeline = pipeline_of(theirs)
    stages = plan_stages(pipeline.stages, pipeline.graph.awaited, pipeline.place)[: pipeline.last]
    given = Given()
    found = estimated(of_stages(stages, pipeline.place.data_root), given, on)
    return found, given, f"{pipeline.place.name}: {len(found)} stages"


def pipeline_of(theirs: Sequence[str]) -> Pipeline:
    """Return the pipeline that a command line means; nothing of it is run, and data may be still to come."""
    presets = [argument.partition("=")[2] for argument in theirs if argument.startswith("preset=")]
    if not presets:
        raise UserError("which pipeline? Need preset=<name>, for example preset=llama2_7b")
    said = [override for name in presets for override in preset_overrides("pipeline", name)]
    own, staged = divided([*said, *(one for one in theirs if not one.startswith("preset="))])
    return Pipeline(compose("pipeline", PipelineConfig, [*own, "dry_run=true"]), presets, staged)


def forecast(cfg: PlanConfig, found: Sequence[Estimated]) -> Iterator[str]:
    """Yield how failures draw out pretraining, in words, and played through where asked."""
    for one in found:
        if one.program != "pretrain" or one.work is None or not one.machine.gpus or not one.work.steps:
            continue
        hours = one.device_hours
        node = one.machine.ranks_per_node
        failures, basis = known(cfg.failures, one, Path(cfg.measured) if cfg.measured else None)
        ends = [
            job_of(failures, int(one.work.steps), each, one.machine.ranks, node, one.work.save_every) for each in hours
        ]
        yield from drawn_out(ends[0], ends[1])
        yield basis
        if cfg.simulate:
            title = f"{tables.parameters(one.work.model)} on {one.machine}"
            yield ""
            yield from played(ends[1], cfg.trials_seed, Path(cfg.drawing), title)


def run(cfg: PlanConfig, theirs: Sequence[str]) -> None:
    """Print the plan; exit code 2 where something does not fit."""
    found, given, title = planned(cfg, theirs)
    groups = grouped(found)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    show(out, cfg, groups, given, title)
    refused = list(refusals(groups, cfg.cluster.gpus_per_node or 1))
    for line in refused:
        out.print(f"[red]✗[/red] {wrapped(line)}", soft_wrap=True)
    if refused:
        raise SystemExit(2)


def show(out: Console, cfg: PlanConfig, groups: Sequence[Estimated], given: Given, title: str) -> None:
    """Print tables, and below them what they rest on."""
    if not any(one.work for one in groups):
        out.print(f"{title}: nothing to plan, it runs no model")
        return
    model = max((one.work.model for one in groups if one.work), key=lambda one: one.parameters)
    out.print(f"[bold]{title}[/bold], {tables.parameters(model)}")
    machine, unit = max((one.machine for one in groups if one.work), key=lambda one: one.ranks), tables.unit_of(groups)
    device = f"an {machine.hardware.gpu}" if machine.gpus else "a rank"
    out.print(
        f"\nmemory of {device} in {unit}; of its {machine.memory / 1e9:,.0f} GB {machine.usable / 1e9:,.0f} are used. "
        "host: of a node, with copies for checkpoints"
    )
    out.print(tables.memory(groups))
    out.print("\nbatches")
    for line in tables.batches(groups):
        out.print(wrapped(line, "  ", "      "), soft_wrap=True)
    out.print("\ntime and cost")
    out.print(tables.times(groups, cfg.rates))
    out.print()
    for line in tables.reasons(groups, given, cfg.rates):
        out.print(f"[dim]{wrapped(line)}[/dim]", soft_wrap=True)
    for line in forecast(cfg, groups):
        out.print(line if cfg.simulate else wrapped(line), soft_wrap=True)


def wrapped(line: str, first: str = "", then: str = "  ") -> str:
    """Return a line broken at the width of a plan, what follows indented."""
    return textwrap.fill(line, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Divide the command line into the plan's own keys and those of what is planned."""
    given = list(sys.argv[1:] if argv is None else argv)
    keyed = with_keys("plan", given)
    wrong: Exception | None = None
    own, theirs = list[str](), list[str]()
    try:
        own, theirs = split(keyed, OWN, ("cluster", "resources"))
    except (UserError, OSError) as error:  # said where a program's mistakes are
        wrong = error

    def plan(cfg: PlanConfig) -> None:
        if wrong is not None:
            raise wrong
        run(cfg, theirs)

    program.main("plan", PlanConfig, plan, keyed if asks(given) else [] if wrong else own)


if __name__ == "__main__":
    main()
