"""Submits a program, or a pipeline with one job per stage, to Slurm.

    llamatrain slurm sft preset=llama2_7b run.name=chat checkpoint=runs/base/final train=d.jsonl cluster=a100_80g_infiniband
    llamatrain slurm pipeline preset=demo cluster=cpu dry_run=true
    llamatrain slurm pipeline preset=llama2_7b data=data.yaml cluster=my_cluster.yaml resources.ppo.nodes=4

A job that is warned of its time limit, preempted or loses a rank saves where it can and goes on by itself. The same
command submits what is not done and not queued. The scripts and one log per rank lie in the run folder, below jobs/.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llamatrain.config import program
from llamatrain.config.help import DRY_RUN
from llamatrain.config.options import asks
from llamatrain.config.presets import YAML, preset_overrides
from llamatrain.errors import UserError, show
from llamatrain.exits import EXIT_FAILURE
from llamatrain.keys import flatten
from llamatrain.yaml_files import read_yaml

from ..programs import NAME, quoted, with_keys
from .config import SlurmConfig
from .queue import ClusterError
from .submission import submit

FREE = ("cluster.environment.", "cluster.nccl.")  # names below these are the user's own
OWN = ("program", "cluster", "resources", "dry_run")  # keys of this program; all others are those of what it submits


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a command line into this program's own overrides and those of the program that is submitted."""
    own, theirs = list[str](), list[str]()
    for argument in arguments:
        if argument == DRY_RUN:
            own.append("dry_run=true")
        elif argument.lstrip("+~").partition("=")[0].partition(".")[0] in OWN:
            own += _spelt(argument)
        else:
            theirs.append(argument)
    presets = [argument.partition("=")[2] for argument in theirs if argument.startswith("preset=")]
    return [*(one for name in presets for one in preset_overrides("slurm", name)), *own], theirs


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


def main(argv: Sequence[str] | None = None) -> None:
    """Divide the command line and submit; exit code 2 for the user's mistake, 1 where the cluster refuses."""
    given = list(sys.argv[1:] if argv is None else argv)
    keyed = with_keys("slurm", given)
    wrong: Exception | None = None
    own, theirs = list[str](), list[str]()
    try:
        own, theirs = split(keyed)
    except (UserError, OSError) as error:  # said where a program's mistakes are
        wrong = error

    def task(cfg: SlurmConfig) -> None:
        if wrong is not None:
            raise wrong
        try:
            submit(cfg, cfg.program, theirs, f"{NAME} {shlex.join(['slurm', *given])}")
        except ClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(EXIT_FAILURE) from None

    asked = asks(given)
    program.main("slurm", SlurmConfig, task, keyed if asked else ["program=x"] if wrong else own)


if __name__ == "__main__":
    main()
