"""Settings of the program `plan`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llamatrain.energy import Rates
from llamatrain.errors import UserError
from llamatrain.keys import check_values, least

from ..forecast import Failures
from ..slurm.config import Cluster, Resources


@dataclass
class PlanConfig:
    """configs/plan.yaml says what each key means."""

    program: str
    cluster: Cluster
    resources: dict[str, Resources]
    gpus: int | None = field(metadata=least(1))
    rates: Rates
    failures: Failures
    simulate: bool
    trials_seed: int
    drawing: str
    measured: str | None

    def __post_init__(self) -> None:
        """Check values, and spread `gpus` over nodes."""
        check_values(self)
        if self.gpus is None:
            return
        each = self.cluster.gpus_per_node
        if each == 0:
            raise UserError(f"gpus={self.gpus}: need a cluster with GPUs, cluster.gpus_per_node is 0")
        if self.gpus > each and self.gpus % each:
            raise UserError(f"gpus={self.gpus}: need a multiple of cluster.gpus_per_node={each}, whole nodes")
        nodes = -(-self.gpus // each)
        self.cluster = replace(self.cluster, nodes=nodes, gpus_per_node=self.gpus // nodes)
