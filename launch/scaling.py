"""Reward model accuracy over data and model size (paper 3.2.2, figure 6): the same training on shares of its pairs.

    llamatrain scaling runs/demo/v1_reward_helpfulness
    llamatrain scaling runs/my_reward "checkpoints=[runs/small/sft/final,runs/large/sft/final]" "seeds=[0,1,2]"

The run says how: its pairs, held-out pairs, optimizer and batch. Each start, share and seed is trained for one pass in a run
of its own below `folder` (RUN_scaling). What is finished is not trained again: the same command resumes. scaling.jsonl
has a line per run, scaling.html the picture.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from llamatrain import atomic
from llamatrain.config import program
from llamatrain.config.compose import write_settings
from llamatrain.config.options import FROM_FILE
from llamatrain.data.kinds import RATINGS
from llamatrain.data.rows import file_fingerprint
from llamatrain.errors import UserError, missing
from llamatrain.keys import check_values, decisive, flatten, least, reads
from llamatrain.resuming import parent_hash
from llamatrain.runs import Row, parameters, read_json, read_series, read_status
from llamatrain.stopping import EXIT_STOPPED
from llamatrain.yaml_files import read_yaml

from .processes import Processes, ended
from .programs import PROGRAMS, command, schema_of, typed, with_keys
from .report.scaling import write_picture
from .stage_run import Amount

PROGRAM = "reward"
LINES, PICTURE = "scaling.jsonl", "scaling.html"
MADE_FROM = "made_from.json"  # in each run's folder: hashes of its files and its start, as they were when it began
ACCURACY = {"accuracy": "all pairs", **{f"accuracy_{rating}": rating.replace("_", " ") for rating in RATINGS}}


@dataclass
class ScalingConfig:
    """configs/scaling.yaml says what each key means."""

    like: str = field(metadata=reads("file", PROGRAM))
    checkpoints: list[str] = field(metadata=reads("checkpoint", "sft"))
    shares: list[float]
    seeds: list[int]
    ranks: int = field(metadata=least(1))
    folder: str | None

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        for share in self.shares:
            if not 0 < share <= 1:
                raise UserError(f"shares={share}: need numbers above 0, at most 1")
        for key in ("shares", "seeds"):
            if not getattr(self, key):
                raise UserError(f"{key}=[]: need at least one")


@dataclass(frozen=True)
class Point:
    """One training of a curve: where its run lies, and the settings that it has."""

    folder: Path
    start: str
    share: float
    seed: int
    settings: Row


def points(cfg: ScalingConfig) -> list[Point]:
    """Return the trainings, the small shares of all starts and seeds first; UserError where the run is none to go by."""
    template, out = _template(Path(cfg.like)), Path(cfg.folder or f"{cfg.like.rstrip('/')}_scaling")
    starts = cfg.checkpoints or [template["checkpoint"]]
    found = []
    for share, (number, start), seed in itertools.product(sorted(cfg.shares), enumerate(starts), cfg.seeds):
        name = f"{number}_share{share:g}_seed{seed}"
        settings = copy.deepcopy(template)
        settings |= {"checkpoint": start, "epochs": share}
        own = {"name": name, "dir": str(out), "seed": seed, "resume": "auto", "keep": 1, "given": []}
        # Measured at the end alone: what a curve shows is the last checkpoint of each.
        settings["run"] |= {**own, "eval_every": 0, "keep_best": False, "patience": None}
        settings["run"]["wandb"]["mode"] = "disabled"
        found.append(Point(out / name, start, share, seed, settings))
    return found


def _template(run: Path) -> Row:
    """Return the settings of a run of `reward`."""
    file = run / "config.yaml"
    if not file.is_file():
        raise missing(file, PROGRAM)
    settings, program_ = read_yaml(file), read_status(run).get("program")
    if not isinstance(settings, dict) or program_ != PROGRAM:
        raise UserError(f"like={run}: is a run of {program_}; need one of `llamatrain {PROGRAM}`")
    if not settings.get("eval"):
        raise UserError(f"like={run}: was trained without held-out pairs, so that nothing was measured; need eval")
    return settings


def line(point: Point) -> Row:
    """Return what a finished training found: how many pairs it saw, and its accuracy on held-out ones by rating.

    `low` and `high` are Wilson's interval as if pairs were independent: a run does not record which share a prompt.
    """
    from llamatrain.statistics import wilson  # with numpy, which `--help` does without

    last = {name: series[-1][1] for name, series in read_series(point.folder).items()}
    final = point.folder / "final"
    scores = read_json(final / "llamatrain.json").get("scores") or {}
    held_out = sum(one["responses"] for one in scores.values() if isinstance(one, dict)) // 2
    low, high = wilson(last["eval/accuracy"], held_out)
    return {
        "checkpoint": point.start,
        "parameters": parameters(final),
        "share": point.share,
        "seed": point.seed,
        "pairs": int(read_status(point.folder)["step"]) * point.settings["batch_pairs"],
        "held_out": held_out,
        **{key: last[f"eval/{key}"] for key in ACCURACY if f"eval/{key}" in last},
        "low": low,
        "high": high,
    }


def curves(lines: Sequence[Row], metric: str) -> dict[str, list[tuple[float, float, float, float]]]:
    """Return each start's curve: pairs, and of the seeds the mean, the lowest and the highest.

    Of two or three seeds an interval for their mean would reach beyond 0 and 1.
    """
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    keyed = sorted(
        (one for one in lines if metric in one), key=lambda one: (one["parameters"], one["checkpoint"], one["pairs"])
    )
    for (start, pairs), alike in itertools.groupby(keyed, key=lambda one: (one["checkpoint"], one["pairs"])):
        values = [one[metric] for one in alike]
        found.setdefault(start, []).append((pairs, fmean(values), min(values), max(values)))
    return found


def names(lines: Sequence[Row]) -> dict[str, str]:
    """Return what the starts are called: by their size where that tells them apart, else by their path."""
    sizes = {one["checkpoint"]: f"{Amount(one['parameters'])} parameters" for one in lines}
    return sizes if len(set(sizes.values())) == len(sizes) else {start: start for start in sizes}


def table(lines: Sequence[Row]) -> Table:
    """Return the curves for the terminal, seeds averaged."""
    named = names(lines)
    shown = Table(box=None, title=next(iter(named.values())) if len(named) == 1 else None, title_justify="left")
    for title in (*(["start"] if len(named) > 1 else []), "pairs", *ACCURACY.values()):
        shown.add_column(title, justify="left" if title == "start" else "right")
    every = {metric: curves(lines, metric) for metric in ACCURACY}
    for start, curve in every["accuracy"].items():
        for pairs, *_ in curve:
            cells = (next((m for x, m, _, _ in every[key].get(start, []) if x == pairs), None) for key in ACCURACY)
            start_cell = [named[start]] if len(named) > 1 else []
            shown.add_row(*start_cell, f"{pairs:,.0f}", *("–" if cell is None else f"{cell:.3f}" for cell in cells))
    return shown


def made_from(point: Point) -> Row:
    """Return name -> hash of the files and the checkpoint that a training reads; none of what is not there."""
    named = [*point.settings.get("train", []), *point.settings["eval"], *point.settings.get("mix", [])]
    found: Row = {"checkpoint": parent_hash(Path(point.start))}
    for file in named:
        with suppress(UserError):  # the program reports it when it reads it
            found[file] = file_fingerprint(file)
    return found


def refuse_others(todo: Sequence[Point]) -> None:
    """Refuse folders of trainings that were made with other settings or from other files: no curve is of both."""
    mend = "need another folder=; nothing was touched"
    for point in todo:
        file = point.folder / "config.yaml"
        if not file.is_file():
            continue
        was, now = _compared(read_yaml(file)), _compared(point.settings)
        for key in was | now:
            # An earlier version did without some keys; items of lists are keys too.
            known = (key in was and key in now) or key.rpartition(".")[2].isdigit()
            if known and was.get(key) != now.get(key):
                raise UserError(f"{key}={now.get(key)}: {point.folder} was trained with {was.get(key)}; {mend}")
        if (noted := point.folder / MADE_FROM).is_file():
            before, present = read_json(noted), made_from(point)
            for name in present:
                if before.get(name) != present[name]:
                    raise UserError(f"{name} changed since {point.folder} was trained from it; {mend}")


def _compared(settings: Row) -> Row:
    """Return the flat settings that change what a curve shows: the result, and what it is measured on."""
    flat = flatten(settings)
    return decisive(schema_of(PROGRAM), flat) | {key: flat[key] for key in flat if key.partition(".")[0] == "eval"}


def scale(cfg: ScalingConfig) -> None:
    """Train what is not yet trained, write a line per finished run after each, and draw the curves."""
    todo = points(cfg)
    refuse_others(todo)
    out = todo[0].folder.parent
    out.mkdir(parents=True, exist_ok=True)
    with Processes() as processes:
        for number, point in enumerate(todo, 1):
            if read_status(point.folder).get("state") != "done":
                print(f"{number} of {len(todo)}: {point.folder}", flush=True)
                _train(point, processes, cfg.ranks)
            _write(out, list(_finished(todo)), cfg.like)
    lines = list(_finished(todo))
    Console().print(table(lines))
    print(f"{out / LINES} has a line per run, {out / PICTURE} the curves")


def _train(point: Point, processes: Processes, ranks: int) -> None:
    """Train one in processes of its own; ends this one where it fails or is stopped."""
    point.folder.mkdir(parents=True, exist_ok=True)
    settings = point.folder / "config.yaml"
    if not settings.is_file():  # what a run goes on with has been compared
        atomic.write_json(point.folder / MADE_FROM, made_from(point))
    write_settings(settings, point.settings)
    code = processes.run([*command(PROGRAMS[PROGRAM].module), f"{FROM_FILE}={settings}"], ranks)
    if read_status(point.folder).get("state") == "done":
        return
    if code == EXIT_STOPPED or processes.stopped:
        print(f"interrupted; resume with:\n  {typed(['scaling', *sys.argv[1:]])}", file=sys.stderr)
        raise SystemExit(EXIT_STOPPED)
    print(f"error: {point.folder} failed ({ended(code)}): see its message above", file=sys.stderr)
    raise SystemExit(code or 1)


def _finished(todo: Sequence[Point]) -> Iterator[Row]:
    for point in todo:
        if read_status(point.folder).get("state") == "done":
            yield line(point)


def _write(out: Path, lines: Sequence[Row], like: str) -> None:
    atomic.write_text(out / LINES, "".join(json.dumps(one) + "\n" for one in lines))
    named = names(lines)
    drawn = {
        title: {named[start]: curve for start, curve in curves(lines, metric).items()}
        for metric, title in ACCURACY.items()
    }
    half = max((one["high"] - one["low"] for one in lines), default=0.0) / 2
    chance = f"One accuracy on {lines[0]['held_out']:,} held-out pairs is known to within {half:.3f}." if lines else ""
    write_picture(out / PICTURE, like, chance, {title: curve for title, curve in drawn.items() if curve})


def main(argv: Sequence[str] | None = None) -> None:
    """Take the run without its key: `llamatrain scaling runs/demo/v1_reward_helpfulness`."""
    program.main("scaling", ScalingConfig, scale, with_keys("scaling", argv))


if __name__ == "__main__":
    main()
