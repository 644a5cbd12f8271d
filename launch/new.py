"""Looks at data of your own, says which file can play which role, and writes a preset fitted to them and this machine.

    llamatrain new mine from=my_data                   a folder, at any depth
    llamatrain new mine from=[texts.jsonl,owner/name]  files, hub data sets
    llamatrain new mine from=my_data minutes=5         a smaller model, sooner
    llamatrain new mine from=my_data checkpoint=llama  a model to start from: any Llama folder

Then `llamatrain pipeline preset=mine` is all. The minutes, like every value, are estimates by the rules in
`launch/fitted.py` and in each folder's plan.py, to be changed in presets/mine.yaml. No file is ever overwritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatrain import atomic
from llamatrain.config import program
from llamatrain.config.presets import OWN, config_folder
from llamatrain.data.kinds import EXAMPLES
from llamatrain.data.shapes import Shape
from llamatrain.errors import UserError
from llamatrain.fitting import size_of
from llamatrain.keys import above, check_values
from llamatrain.manifest import checkpoint_folder
from llamatrain.model.config import ModelConfig, load_config
from llamatrain.progress import counted
from llamatrain.tokenizer import MODEL_FILE

from .fitted import FEW_PAIRS, LONG, Fit
from .graphs.chat import KINDS
from .machine import this_machine
from .programs import NAME, quoted, typed, with_keys
from .roles import PLURAL, File, Roles, assigned, divisible, found
from .stage import console
from .values import Preset, preset

FOLDS = 5
NO_ROLE = {
    "comparison": "rated by people they become preferences",
    "response": "what a model answered plays no role",
    "judgement": "what a judge says plays no role",
}


@dataclass
class NewConfig:
    """configs/new.yaml says what each key means."""

    name: str
    from_: list[str]
    checkpoint: str | None
    minutes: float = field(metadata=above(0))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", self.name):
            raise UserError(f"name={self.name}: need a name of letters, digits, - and _, such as mine")
        if not self.from_:
            raise UserError("from=[]: need folders, files or data sets of the hub")


def new(cfg: NewConfig) -> None:
    """Look at the data, and write the preset and its data file."""
    preset_file, data_file = _free(cfg.name)
    say = console()
    start = None if cfg.checkpoint is None else _start(cfg.checkpoint)
    checkpoint = None if cfg.checkpoint is None else str(Path(cfg.checkpoint).expanduser().absolute())
    files, others = found(cfg.from_)
    roles = assigned(files, checkpoint=checkpoint)
    pairs = [roles.parts[kind].rows for kind in KINDS if roles.parts[kind].rows]
    if pairs and min(pairs) < FEW_PAIRS and cfg.minutes >= LONG and divisible(files, FOLDS):
        roles = assigned(files, FOLDS, checkpoint)
    say.print(_table(files), "")
    _tell_problems(say, files, others)
    if not (roles.data.documents or (checkpoint and roles.data.dialogues)):
        raise UserError(
            f"from={', '.join(cfg.from_)}: no file here holds texts, dialogues or preferences that can be read; nothing was written"
        )
    fit = Fit(roles, this_machine(), cfg.minutes, start)
    minutes = fit.estimated()
    made = preset(fit, f"data/{cfg.name}.yaml", any(file.shape.bad.wrong for file in files if file.roles))
    data_file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(data_file, _data_text(cfg, roles))
    atomic.write_text(preset_file, _preset_text(cfg, fit, made, minutes))
    _tell_plan(say, fit, minutes)
    say.print(f"\n[green]✓[/green] {preset_file} and {data_file} are yours to change. Then:", highlight=False)
    say.print(f"  {typed(['pipeline', f'preset={cfg.name}'])}", markup=False, highlight=False, soft_wrap=True)


def _start(path: str) -> ModelConfig:
    """Return the shape of the model to start from; UserError where it is none, or cannot be started from."""
    folder = checkpoint_folder(Path(path).expanduser(), "pretrain")
    model, scalar = load_config(folder)
    if scalar:
        raise UserError(f"checkpoint={path} is a reward model; need a language model")
    if not (folder / MODEL_FILE).is_file():
        raise UserError(f"checkpoint={path} has no {MODEL_FILE}: need a Llama folder with its SentencePiece tokenizer")
    return model


def _free(name: str) -> tuple[Path, Path]:
    """Return where the preset and its data file go; UserError where the name is taken."""
    paths = OWN / f"{name}.yaml", OWN / "data" / f"{name}.yaml"
    for path in (*paths, config_folder() / "preset" / f"{name}.yaml"):
        if path.exists():
            raise UserError(f"name={name}: {path} is there already, and is left as it is; need another name")
    return paths


# --- what is said ------------------------------------------------------------------------------------------------


def _table(files: Sequence[File]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("file", "rows", "what it is", "role", "why"):
        table.add_column(heading, justify="right" if heading == "rows" else "left", overflow="fold")
    for file in sorted(files, key=lambda file: not file.roles):
        shape = file.shape
        rows = f"{shape.rows:,}{'+' if shape.more else ''}" if shape.rows else "–"
        roles = ", ".join(file.roles) or "[yellow]none[/yellow]"
        why = "; ".join(file.why) or NO_ROLE.get(shape.kind or "", "" if file.roles else "see below")
        table.add_row(f"[bold]{escape(file.label)}[/bold]", rows, escape(_what(shape)), roles, escape(why))
    return table


def _what(shape: Shape) -> str:
    """Say what a file holds."""
    if shape.kind is None:
        return shape.looks or "nothing that can be read"
    by = f", read by {shape.adapter}:" if shape.adapter not in (None, "hf", "paragraphs") else ""
    kinds = [
        f"{sum(shape.folds[kind]):,} {kind}" for kind in KINDS if shape.kind == "preference" and kind in shape.folds
    ]
    inner = f" ({', '.join(kinds)})" if kinds else ""
    return f"{PLURAL[shape.kind]}{inner}, {size_of(shape.size)}{by}"


def _tell_problems(say: Console, files: Sequence[File], others: Mapping[str, int]) -> None:
    """Say what is wrong with files and rows that play no role."""
    for file in files:
        shape, lines = file.shape, list[str]()
        if shape.kind is None:
            lines = [shape.why]
        elif shape.bad.counts:
            shape.bad.say(lines.append)
        for line in lines:
            say.print(f"[yellow]![/yellow] {escape(file.label)}: {escape(line)}", highlight=False, soft_wrap=True)
    if others:
        told = ", ".join(f"{count} {suffix}" for suffix, count in others.items())
        say.print(f"[yellow]![/yellow] not read, as no rows: {escape(told)}", highlight=False, soft_wrap=True)


def _tell_plan(say: Console, fit: Fit, seconds: Mapping[str, float]) -> None:
    """Say what would be trained, for how long, and what is left out."""
    say.print(
        f"A model of {fit.sizes.parameters / 1e6:.1f}M parameters ({fit.shape or fit.data.checkpoint}), {fit.vocabulary:,} pieces, a context of "
        f"{fit.context} tokens, on {fit.machine.name}: {_minutes(seconds)}.",
        highlight=False,
    )
    if fit.folds > 1:
        crossed = sum(stage.program in ("reward", "reward.evaluate") for stage in fit.graph.stages.values())
        say.print(
            f"Of {len(fit.graph.stages)} stages {crossed} train and measure reward models: of few pairs {fit.folds} of each kind, "
            f"so that every pair is measured by a model that did not see it. folds=1 in the preset trains one, unmeasured.",
            highlight=False,
        )
    for line in fit.graph.further():
        say.print(f"[yellow]–[/yellow] {escape(line)}", highlight=False, soft_wrap=True)


def _minutes(seconds: Mapping[str, float]) -> str:
    """Say how long a pipeline may take, with the programs that take most of it."""
    most = sorted(seconds.items(), key=lambda item: -item[1])[:4]
    told = ", ".join(f"{name} {round(value / 60)}" for name, value in most if value >= 60)
    return f"about {counted(max(1, round(sum(seconds.values()) / 60)), 'minute')} by estimate{f' ({told})' if told else ''}"


# --- what is written ---------------------------------------------------------------------------------------------


def _preset_text(cfg: NewConfig, fit: Fit, made: Preset, seconds: Mapping[str, float]) -> str:
    """Return the preset as YAML, with a reason beside every value."""
    parts = {name: fit.parts[name].rows for name in ("document", "dialogue", "prompt", *KINDS)}
    amount = f"{size_of(fit.text)} of text in {counted(parts['document'], 'document')}, {counted(parts['dialogue'], 'dialogue')}, "
    amount += f"{counted(parts['prompt'], 'prompt')}, pairs: {', '.join(f'{parts[kind]:,} {kind}' for kind in KINDS)}"
    given = f"from={','.join(cfg.from_)!r}{f' checkpoint={cfg.checkpoint!r}' if cfg.checkpoint else ''}"
    lines = [
        f"# Made by `{NAME} new {cfg.name} {given}`, and yours to change: {NAME} pipeline preset={cfg.name}",
        f"# Fitted to {amount};",
        f"# and to {fit.machine.name}: {_minutes(seconds)}.",
    ]
    for name, values in made.items():
        lines += ["", f"{name}:"]
        lines += [f"{f'  - {value.override}':<39} # {value.why}" for value in values]
    return "\n".join(lines) + "\n"


def _data_text(cfg: NewConfig, roles: Roles) -> str:
    """Return the data file as YAML: every role, with what it is or needs."""
    data, parts = roles.data, roles.parts
    lines = [
        f"# Which files play which role in the preset `{cfg.name}`; docs/data.md says how sources are spelled.",
        "",
        "# The folder that @data stands for: change it where the files move.",
        f"root: {_scalar(data.root)}",
    ]
    if data.checkpoint is not None:
        lines += ["", "# The model to start from.", f"checkpoint: {_scalar(data.checkpoint)}"]
    for kind, what in (
        ("document", "Texts to pretrain on"),
        ("dialogue", "Dialogues to fine-tune on"),
        ("prompt", "Prompts for rejection sampling and PPO"),
    ):
        role, part = PLURAL[kind], parts[kind]
        lines += ["", _comment(what, part.rows, part.rows_held_out), f"# A row: {EXAMPLES[kind]}"]
        lines += [*_entry(role, part.train), *_entry(f"{role}_eval", part.held_out)]
    pairs, held_out = (sum(getattr(parts[kind], rows) for kind in KINDS) for rows in ("rows", "rows_held_out"))
    lines += ["", _comment("Pairs that people rated", pairs, held_out), f"# A row: {EXAMPLES['preference']}"]
    for role, sources in (("preferences", data.preferences), ("preferences_eval", data.preferences_eval)):
        lines.append(f"{role}:")
        lines += [f"  {line}" for kind in KINDS for line in _entry(kind, sources.of(kind))]
    lines += [
        "",
        "# Instead of pairs that are there: a folder in which people put v1_preferences.jsonl, of the responses in",
        "# v1_compare/comparisons.jsonl. The pipeline makes those and waits for it.",
        "ratings: null",
    ]
    return "\n".join(lines) + "\n"


def _comment(what: str, rows: int, held_out: int) -> str:
    return f"# {what}: {f'{rows:,}, and {held_out:,} held out' if rows else 'none'}."


def _entry(role: str, sources: Sequence[str]) -> list[str]:
    return [f"{role}:", *(f"  - {_scalar(source)}" for source in sources)] if sources else [f"{role}: []"]


def _scalar(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Take the name without its key, and paths as they are: `llamatrain new mine from=my data`."""
    program.main("new", NewConfig, new, [_as_text(argument) for argument in with_keys("new", argv)])


def _as_text(argument: str) -> str:
    key, equals, value = argument.partition("=")
    return (
        f"{key}={quoted(value)}"
        if key in ("from", "checkpoint") and equals and value[:1] not in ("[", "'", '"', "")
        else argument
    )


if __name__ == "__main__":
    main()
