"""What a preset's programs take of GPUs, before any is started: memory per GPU, whether that fits, what would, GPU hours.

    llamatrain plan preset=llama2_7b gpus=64
    llamatrain plan preset=llama2_70b gpus=8 'programs=[ppo]'
    llamatrain plan preset=llama2_70b gpus=2000 'programs=[pretrain]' simulate=true

Arithmetic alone (llamatrain/footprint.py): weights, gradients and optimizer states are exact, activations are held
against a CPU; what a GPU holds is a prediction. Exit code 2 where something does not fit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from llamatrain.capacity import USED
from llamatrain.config import program
from llamatrain.config.compose import check, compose_dict
from llamatrain.energy import Rates
from llamatrain.errors import UserError
from llamatrain.keys import above, check_values, least
from llamatrain.model.config import ModelConfig
from llamatrain.planning import UTILISATION, Work, changes, gpu_hours, smallest_change

from .forecast import Failures, costs, drawn_out, job_of, played
from .programs import nearest, plans, schema_of
from .stage import console

MANY = 1024  # GPUs, among which shards are small
ABSENT = "to_come"  # stands for files that are not needed to plan


@dataclass
class PlanConfig:
    """configs/plan.yaml says what each key means."""

    programs: list[str]
    gpus: int = field(metadata=least(1))
    gpus_per_node: int = field(metadata=least(1))
    gigabytes: float = field(metadata=above(0))
    peak_tflops: float = field(metadata=above(0))
    gpu: str
    rates: Rates
    failures: Failures
    simulate: bool
    seed: int

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)


def work_of(name: str, preset: str, model: ModelConfig) -> Work:
    """Return what a program of a preset asks, for a model; files that the user would give are not looked at."""
    planner = plans()
    if name not in planner:
        raise UserError(
            f"programs: there is no plan of '{name}'{nearest(name, list(planner))}; need {', '.join(planner)}"
        )
    return planner[name](settings(name, preset), model)


def settings(name: str, preset: str) -> Any:
    """Return a program's settings in a preset, with stand-ins for files."""
    values = compose_dict(name, [f"preset={preset}"], schema_of(name))
    values["run"]["name"] = ABSENT
    lists = {"train", "prompts", "sft_train", "eval"}
    for key, value in values.items():
        if value == "???":
            values[key] = [ABSENT] if key in lists else "helpfulness" if key == "kind" else ABSENT
        elif value is None and name != "pretrain" and key in ("helpfulness", "safety"):
            values[key] = ABSENT
    return check(name, schema_of(name), values, fill=True)


def model_of(preset: str) -> ModelConfig:
    """Return the model that a preset pretrains."""
    model: ModelConfig = settings("pretrain", preset).model
    if model.vocab_size is None:
        raise UserError(
            f"preset={preset}: its vocabulary is the tokenizer's, which is not made yet; need a preset that says it"
        )
    return model


def table(cfg: PlanConfig, preset: str) -> tuple[Table, list[str]]:
    """Return the table of a plan, and in a line each what does not fit and what would."""
    model, memory = model_of(preset), cfg.gigabytes * 1e9
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for column, side in (("program", "left"), ("phase", "left"), ("models", "right"), ("activations", "right")):
        shown.add_column(column, justify=side)  # type: ignore[arg-type]
    for column in ("all, GB", "at once"):
        shown.add_column(column, justify="right" if column[0] == "a" and "," in column else "left")
    refused: list[str] = []
    for name in cfg.programs or list(plans()):
        work = work_of(name, preset, model)
        for number, (phase, held, batch) in enumerate(work.phases(USED * memory, cfg.gpus)):
            kept = held.activations + held.working + held.logits + held.cache
            cells = (f"{(held.total - kept) / 1e9:,.1f}", f"{kept / 1e9:,.1f}", f"{held.total / 1e9:,.1f}", batch)
            shown.add_row("" if number else f"[bold]{name}[/bold]", phase, *cells)
        if not work.fits(memory, cfg.gpus):
            told = advice(work, memory, cfg.gpus, cfg.gpus_per_node)
            refused.append(f"[red]✗[/red] {name} does not fit: {told}")
    return shown, refused


def advice(work: Work, memory: float, gpus: int, node: int) -> str:
    """Return the smallest change that makes work fit, or how much memory a GPU would need whatever their number."""
    change = smallest_change(work, memory, gpus, node)
    if change is not None:
        return f"it would with {change}"
    least = min(one.most(USED * memory, MANY) for one, _ in changes(work)) / USED / 1e9
    return f"no setting helps, even on {MANY:,} GPUs, as models that sample are whole; need GPUs of {least:,.0f} GB or a smaller model"


def pretraining(cfg: PlanConfig, preset: str) -> Iterator[str]:
    """Yield GPU hours of pretraining, what they cost, and how failures draw them out, in words."""
    work, values = work_of("pretrain", preset, model_of(preset)), settings("pretrain", preset)
    most, fewest = (gpu_hours(work, cfg.peak_tflops, share) or 0.0 for share in UTILISATION)
    low, high = UTILISATION
    yield (
        f"pretraining: {fewest:,.0f} to {most:,.0f} GPU hours ({high:.0%} to {low:.0%} of {cfg.peak_tflops:g} TFLOP/s by 6N, as the "
        f"paper's hours imply), {fewest / cfg.gpus / 24:,.1f} to {most / cfg.gpus / 24:,.1f} days on {cfg.gpus:,} GPUs"
    )
    yield from costs(cfg.rates, cfg.gpu, fewest, most)
    ends = [
        job_of(cfg.failures, values.total_steps, hours, cfg.gpus, cfg.gpus_per_node, values.run.save_every)
        for hours in (fewest, most)
    ]
    yield from drawn_out(*ends)
    if cfg.simulate:
        yield ""
        yield from played(ends[1], cfg.seed)


def run(cfg: PlanConfig, preset: str) -> None:
    """Print the plan; exit code 2 where something does not fit."""
    shown, refused = table(cfg, preset)
    out = console()
    out.print(
        f"memory per GPU of {cfg.gigabytes:g} GB, of which four fifths are used, on {cfg.gpus:,} GPUs", highlight=False
    )
    out.print(shown, highlight=False)
    if not cfg.programs or "pretrain" in cfg.programs:
        for line in pretraining(cfg, preset):
            out.print(line, highlight=False, soft_wrap=cfg.simulate)
    for line in refused:
        out.print(line, highlight=False, soft_wrap=True)
    if refused:
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> None:
    """Plan the preset that the command line names."""
    given = list(sys.argv[1:] if argv is None else argv)
    presets = [argument.partition("=")[2] for argument in given if argument.startswith("preset=")]

    def plan(cfg: PlanConfig) -> None:
        if len(presets) != 1:
            raise UserError("need one preset=<name>, for example preset=llama2_7b")
        run(cfg, presets[0])

    program.main("plan", PlanConfig, plan, [one for one in given if not one.startswith("preset=")])


if __name__ == "__main__":
    main()
