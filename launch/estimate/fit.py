"""Whether stages fit the memory of their devices and hosts, and the smallest change with which one would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llamatrain.capacity import USED
from llamatrain.errors import UserError
from llamatrain.given import Given
from llamatrain.hardware import Machine
from llamatrain.planning import Work, changes, smallest_change

from ..slurm.config import Cluster, Resources
from .chain import Estimated, estimated, grouped, on_cluster

MANY = 1024  # GPUs, among which shards are small


def refusals(found: Sequence[Estimated], node: int) -> Iterator[str]:
    """Yield a line for each stage that does not fit: its name, what it needs, what there is, and what would do."""
    for one in found:
        work, machine = one.work, one.machine
        if work is None or one.fits:
            continue
        unit, lacks = "GPU" if machine.gpus else "rank", list[str]()
        if not work.fits_devices(machine):
            phase, held = largest(work, machine)
            lacks.append(
                f"{phase} needs {held / 1e9:,.1f} GB per {unit}, of its {machine.memory / 1e9:,.0f} GB "
                f"{machine.usable / 1e9:,.0f} can be used"
            )
        if not work.fits_hosts(machine):
            lacks.append(
                f"needs {work.host(machine)[0] / 1e9:,.0f} GB of host memory per node, a job may use {machine.host / 1e9:,.0f}"
            )
        names = f"{', '.join(one.names)} {'does' if len(one.names) == 1 else 'do'} not fit"
        yield f"{names} {machine}: {'; '.join(lacks)}; {advice(work, machine, node)}"


def unfit(
    stages: Iterable[tuple[str, str, Any]],
    given: Given,
    cluster: Cluster,
    resources: Mapping[str, Resources],
    refuses: bool,
) -> list[str]:
    """Return what does not fit of stages on a cluster, on the fewest nodes that may be, a line each; with `refuses` UserError."""
    found = grouped(estimated(stages, given, on_cluster(cluster, resources, at_least=True)))
    told = list(refusals(found, cluster.gpus_per_node or 1))
    if told and refuses:
        lines = "\n  ".join(told)
        raise UserError(
            "these jobs could only fail; need other settings or nodes (cluster.hardware says what a GPU and a node have), or "
            f"check_fit=false to submit them all the same:\n  {lines}"
        )
    return told


def advice(work: Work, machine: Machine, node: int) -> str:
    """Return the smallest change that makes work fit, or how much memory a GPU would need: as it is, and on 1,024."""
    change = smallest_change(work, machine, node)
    if change is not None:
        return f"it would fit with {change}"
    if needed := host_memory(work, machine):
        if needed > machine.hardware.node_gigabytes * 1e9:
            return f"no setting or number of GPUs helps: need {needed / 1e9:,.0f} GB of host memory per node"
        return f"it would fit with cluster.memory={-(-needed // 2**30):.0f}G, or resources.NAME.memory"
    unit, digits = ("GPUs", 0) if machine.gpus else ("ranks", 1)
    on = machine if machine.ranks >= MANY else replace(machine, nodes=-(-MANY // node), ranks_per_node=node)
    own = work.most(machine)
    changed, told = min(changes(work), key=lambda pair: pair[0].most(on))
    phase, least = largest(changed, on)
    # Among so many shards are small: what is too large there is whole, or a single row's activations.
    whole = "" if phase == "training" else ", as models that sample or are measured are whole"
    need = f"{own / USED / 1e9:,.{digits}f} GB"
    if least < own:
        need += f" on {machine.ranks:,} as it is, or of {least / USED / 1e9:,.{digits}f} GB on {on.ranks:,}"
        need += f" with {', '.join(told)}," if told else ","
    return f"no setting or number of {unit} helps{whole}: need {unit} of {need} or a smaller model"


def host_memory(work: Work, machine: Machine) -> float:
    """Return the bytes of a node's memory with which work would fit, where its job lacks nothing else; else 0."""
    if machine.gpus:
        return work.host(machine)[0] if work.fits_devices(machine) else 0.0
    whole = replace(machine, node_bytes=0.0)
    return machine.ranks_per_node * work.most(machine) / USED if work.fits_devices(whole) else 0.0


def largest(work: Work, machine: Machine) -> tuple[str, float]:
    """Return the phase that takes the most of a rank's memory, and its bytes."""
    return max(((name, held.total) for name, held, _ in work.phases(machine)), key=lambda pair: pair[1])
