"""What is refused before anything is written: names that are not there, jobs that cannot fit, folders that nodes do not see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from llamatrain.errors import UserError
from llamatrain.given import Given

from ..estimate.fit import unfit
from ..programs import nearest
from ..stage import line
from . import queue
from .arguments import key_of, of_slurm
from .config import SlurmConfig


def check_ranks(theirs: Sequence[str]) -> None:
    """Refuse a number of ranks: it follows from the job."""
    for one in theirs:
        if one.partition("=")[0] == "ranks":
            raise UserError(
                f"{one}: in Slurm the ranks follow from cluster.nodes and cluster.gpus_per_node, or cluster.ranks_per_node"
            )


def check_partitions(cfg: SlurmConfig) -> None:
    """Refuse partitions that the cluster does not have; a dry run needs no Slurm."""
    asked = {"cluster.partition": cfg.cluster.partition, "cluster.cpu_partition": cfg.cluster.cpu_partition}
    asked |= {f"resources.{name}.partition": one.partition for name, one in cfg.resources.items()}
    for key, name in asked.items():
        if name is not None and not cfg.dry_run:
            queue.check_partition(key, name)


def check_names(
    cfg: SlurmConfig, names: set[str], theirs: Sequence[str], why_absent: Callable[[str], str] = lambda name: ""
) -> None:
    """Refuse resources of what is not submitted, but those of a preset: it speaks of all stages that there may be."""
    known = {name.replace(".", "_") for name in names}
    of_presets = {one.split(".")[1] for one in of_slurm(theirs) if key_of(one) == "resources"}
    for name in cfg.resources:
        if name not in known | of_presets:
            unknown = f"there is no such stage or program here{nearest(name, sorted(known))}"
            raise UserError(f"resources.{name}: {why_absent(name) or unknown}")


def check_fit(cfg: SlurmConfig, stages: Iterable[tuple[str, str, Any]], given: Given, told: Console) -> None:
    """Refuse what cannot fit the memory of GPUs and nodes, at the end of a dry run, too; or say so."""
    for text in unfit(stages, given, cfg.cluster, cfg.resources, cfg.check_fit):
        line(told, "!", "", escape(text))


def check_home(cfg: SlurmConfig, folder: Path) -> None:
    """Refuse a run folder that the nodes would not see."""
    home = cfg.cluster.shared
    if home is not None and not folder.resolve().is_relative_to(Path(home).resolve()):
        raise UserError(f"run.dir: {folder} does not lie below cluster.shared={home}, which all nodes see")
