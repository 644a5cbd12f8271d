"""Whether stages fit the memory of their devices and hosts, and the smallest change with which one would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llamatrain.capacity import USED
from llamatrain.errors import UserError
from llamatrain.given import Given
from llamatrain.planning import Work, changes, smallest_change

from ..slurm.config import Cluster, Resources
from .chain import Estimated, estimated, grouped, on_cluster

MANY = 1024  # GPUs, among which shards are small


def refusals(found: Sequence[Estimated], node: int) -> Iterator[str]:
    """Yield a line for each stage that does not fit: its name, what it needs, what there is, and what would do."""
    for one in found:
        work, machine = one.work, one.machine
        if work is None:
            continue
        names = f"{', '.join(one.names)} {'does' if len(one.names) == 1 else 'do'} not fit"
        if not one.fits:
            phase, held = max(
                ((name, held.total) for name, held, _ in work.phases(machine.usable, machine.ranks, machine.device)),
                key=lambda pair: pair[1],
            )
            unit = "GPU" if machine.gpus else "rank"
            told = advice(work, machine.memory, machine.ranks, node, machine.device)
            yield (
                f"{names} {machine}: {phase} needs {held / 1e9:,.1f} GB per {unit}, of its {machine.memory / 1e9:,.0f} GB "
                f"{machine.usable / 1e9:,.0f} can be used; {told}"
            )
        needed, _ = work.host(machine)
        if machine.gpus and needed > machine.host:
            yield (
                f"{names} {machine}: needs {needed / 1e9:,.0f} GB of host memory per node, a job may use "
                f"{machine.host / 1e9:,.0f}; it would on more nodes, or with zero.offload_optimizer=false"
            )


def unfit(
    stages: Iterable[tuple[str, str, Any]],
    given: Given,
    cluster: Cluster,
    resources: Mapping[str, Resources],
    refuses: bool,
) -> list[str]:
    """Return what does not fit of stages on a cluster, a line each; with `refuses` UserError with all of them."""
    found = grouped(estimated(stages, given, on_cluster(cluster, resources)))
    told = list(refusals(found, cluster.gpus_per_node or 1))
    if told and refuses:
        lines = "\n  ".join(told)
        raise UserError(
            "these jobs could only fail; need other settings or nodes (cluster.hardware says what a GPU and a node have), or "
            f"check_fit=false to submit them all the same:\n  {lines}"
        )
    return told


def advice(work: Work, memory: float, ranks: int, node: int, device: str = "cuda") -> str:
    """Return the smallest change that makes work fit, or how much memory a GPU would need: as it is, and on 1,024."""
    change = smallest_change(work, memory, ranks, node, device)
    if change is not None:
        return f"it would fit with {change}"
    unit, digits = ("ranks", 1) if device == "cpu" else ("GPUs", 0)
    many = max(ranks, MANY)
    own = work.most(USED * memory, ranks, device)
    changed, told = min(changes(work), key=lambda pair: pair[0].most(USED * memory, many, device))
    phase, least = max(
        ((name, held.total) for name, held, _ in changed.phases(USED * memory, many, device)), key=lambda pair: pair[1]
    )
    # Among so many shards are small: what is too large there is whole, or a single row's activations.
    whole = "" if phase == "training" else ", as models that sample or are measured are whole"
    need = f"{own / USED / 1e9:,.{digits}f} GB"
    if least < own:
        need += f" on {ranks:,} as it is, or of {least / USED / 1e9:,.{digits}f} GB on {many:,}"
        need += f" with {', '.join(told)}," if told else ","
    return f"no setting or number of {unit} helps{whole}: need {unit} of {need} or a smaller model"
