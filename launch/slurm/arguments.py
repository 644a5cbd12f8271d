"""The command line of programs that start or plan another one on a cluster: their own keys, and the other's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from llamatrain.config.help import DRY_RUN
from llamatrain.config.presets import YAML, preset_overrides
from llamatrain.errors import UserError, show
from llamatrain.keys import flatten
from llamatrain.yaml_files import read_yaml

from ..programs import quoted

NODES = re.compile(r"resources\.\w+\.(min_)?nodes=")
FREE = ("cluster.environment.", "cluster.nccl.")  # names below these are the user's own


def split(arguments: Sequence[str], keys: Sequence[str], of_presets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a command line into overrides of a program's own `keys` and those of the program that it is about.

    What presets say of `slurm` stands before its own, as far as it begins with one of `of_presets`; where the user says how
    many nodes or GPUs all jobs have, not what they say of a stage's.
    """
    own, theirs = list[str](), list[str]()
    for argument in arguments:
        if argument == DRY_RUN:
            own.append("dry_run=true")
        elif key_of(argument) in keys:
            own += _spelt(argument)
        else:
            theirs.append(argument)
    said = [one for one in of_slurm(theirs) if key_of(one) in of_presets]
    if any(one.startswith(("cluster.nodes=", "gpus=")) for one in own):
        said = [one for one in said if not NODES.match(one)]
    return [*said, *own], theirs


def of_slurm(arguments: Sequence[str]) -> list[str]:
    """Return what the presets among arguments say of `slurm`."""
    presets = [argument.partition("=")[2] for argument in arguments if argument.startswith("preset=")]
    return [one for name in presets for one in preset_overrides("slurm", name)]


def key_of(override: str) -> str:
    """Return the first part of an override's key."""
    return override.lstrip("+~").partition("=")[0].partition(".")[0]


def _spelt(argument: str) -> Iterator[str]:
    """Yield what an argument stands for: cluster=FILE.yaml for the values in a file of the user's own."""
    path = Path(argument.removeprefix("cluster="))
    if not argument.startswith("cluster=") or path.suffix not in YAML:
        yield f"++{argument}" if argument.startswith(FREE) else argument
        return
    try:
        values = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"{argument}: there is no such file") from None
    if not isinstance(values, dict) or not isinstance(values.get("like", ""), str):
        raise UserError(f"{argument}: found {show(values)}, need `key: value`, as in configs/cluster/, or like: CHOICE")
    yield f"cluster={values.pop('like', 'single_node')}"
    lists = {key: value for key, value in values.items() if isinstance(value, list)}
    for key, value in flatten({key: value for key, value in values.items() if key not in lists}).items():
        shown = "null" if value is None else quoted(value) if isinstance(value, str) else str(value).lower()
        yield f"{'++' * f'cluster.{key}'.startswith(FREE)}cluster.{key}={shown}"
    for key, items in lists.items():
        yield f"cluster.{key}=[{','.join(quoted(str(item)) for item in items)}]"
