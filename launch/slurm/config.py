"""What a cluster's jobs need, and what a stage needs of it; configs/cluster/ says what each key means. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from llamatrain.errors import UserError
from llamatrain.hardware import Hardware, Machine
from llamatrain.keys import check_values, least, one_of
from llamatrain.progress import counted

from ..programs import PROGRAMS, schema_of

CONTAINERS = ("none", "apptainer", "pyxis")
TIME = re.compile(r"(\d+-)?\d+:\d\d(:\d\d)?")
MEMORY = re.compile(r"\d+[KMGT]?")
WORD = re.compile(
    r"[\w.,:=@%*&|\[\]()+/-]+"
)  # of an option of sbatch: no blank or quote, which its lines would need escaped
NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass
class Container:
    """Where the ranks run."""

    kind: str = field(metadata=one_of(CONTAINERS))
    image: str | None
    mounts: list[str]

    def __post_init__(self) -> None:
        check_values(self, "cluster.container.")
        if self.kind != "none" and self.image is None:
            raise UserError(f"cluster.container.kind={self.kind}: need cluster.container.image")
        if self.kind == "none" and self.image is not None:
            raise UserError(f"cluster.container.image={self.image}: need cluster.container.kind=apptainer or pyxis")


@dataclass
class Cluster:
    """What is so for all jobs on a cluster."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    exclude: str | None
    time: str
    nodes: int = field(metadata=least(1))
    min_nodes: int | None = field(metadata=least(1))
    gpus_per_node: int = field(metadata=least(0))
    gpu_type: str | None
    ranks_per_node: int | None = field(metadata=least(1))
    cpus_per_rank: int = field(metadata=least(1))
    memory: str | None
    exclusive: bool
    cpu_partition: str | None
    cpu_cpus: int = field(metadata=least(1))
    cpu_memory: str | None
    warning_seconds: int = field(metadata=least(0, 65535))
    restarts: int = field(metadata=least(0))
    shared: str | None
    scratch: str | None
    modules: list[str]
    setup: list[str]
    environment: dict[str, str]
    nccl: dict[str, str]
    container: Container
    hardware: Hardware
    sbatch: list[str]
    srun: list[str]

    def __post_init__(self) -> None:
        """Check what would break a line of the script, or be refused by Slurm in words that name no key."""
        check_values(self, "cluster.")
        _check_texts(self, "cluster.", ("gpu_type", "account", "qos", "constraint", "exclude", "cpu_partition"))
        _check_memory("cluster.cpu_memory", self.cpu_memory)
        if self.scratch is not None and set(self.scratch) & set('"`\\\n'):
            raise UserError(
                f"cluster.scratch={self.scratch!r}: need a folder without quotes, backquotes and backslashes"
            )
        for key in ("environment", "nccl"):
            for name in getattr(self, key):
                if not NAME.fullmatch(name):
                    raise UserError(f"cluster.{key}.{name}: need the name of an environment variable")
        for key in ("modules", "setup", "sbatch", "srun"):
            for line in getattr(self, key):
                if "\n" in line or not line.strip():
                    raise UserError(f"cluster.{key}: found {line!r}, need a line each")
        for key in ("sbatch", "srun"):
            for line in getattr(self, key):
                if not line.startswith("-"):
                    raise UserError(f"cluster.{key}: found {line!r}, need options such as --reservation=NAME")


@dataclass
class Resources:
    """What a stage, or every stage of a program, needs instead of what the cluster's jobs have."""

    nodes: int | None = field(default=None, metadata=least(1))
    min_nodes: int | None = field(default=None, metadata=least(1))
    gpus_per_node: int | None = field(default=None, metadata=least(0))
    ranks_per_node: int | None = field(default=None, metadata=least(1))
    cpus_per_rank: int | None = field(default=None, metadata=least(1))
    memory: str | None = None
    time: str | None = None
    partition: str | None = None

    def __post_init__(self) -> None:
        check_values(self, "resources.NAME.")
        _check_texts(self, "resources.NAME.", ())


@dataclass
class SlurmConfig:
    """configs/slurm.yaml says what each key means."""

    program: str
    cluster: Cluster
    resources: dict[str, Resources]
    check_fit: bool
    dry_run: bool


@dataclass(frozen=True)
class Need:
    """What one job asks of Slurm."""

    nodes: int
    ranks_per_node: int
    gpus_per_node: int
    cpus_per_rank: int
    memory: str | None
    time: str
    partition: str | None
    min_nodes: int | None = None  # with which it is content where there are no more; None: all of them

    @property
    def ranks(self) -> int:
        """How many processes share the work."""
        return self.nodes * self.ranks_per_node

    @property
    def at_least(self) -> Need:
        """The same on the fewest nodes."""
        return replace(self, nodes=self.min_nodes or self.nodes, min_nodes=None)

    def machine(self, hardware: Hardware) -> Machine:
        """Return what the ranks run on, for plans; without a limit of the job's memory it has all of its nodes'."""
        size = bytes_of(self.memory) if self.memory else 0.0
        return Machine(hardware, self.nodes, self.ranks_per_node, bool(self.gpus_per_node), self.cpus_per_rank, size)

    def __str__(self) -> str:
        """Say it for people."""
        cpus = counted(self.ranks_per_node * self.cpus_per_rank, "CPU")
        devices = counted(self.gpus_per_node, "GPU") if self.gpus_per_node else cpus
        nodes, ranks = counted(self.nodes, "node"), counted(self.ranks, "rank")
        if self.min_nodes:
            nodes, ranks = f"{self.min_nodes:,} to {nodes}", f"{self.at_least.ranks:,} to {ranks}"
        return f"{nodes} x {devices}, {ranks}, {self.time}"


def need(cluster: Cluster, parallel: bool, model: bool, asked: Resources) -> Need:
    """Return what a program's job needs: `parallel` shares its work among ranks, `model` runs one; `asked` is of its own."""
    gpus = asked.gpus_per_node
    if gpus is None:
        gpus = (cluster.gpus_per_node if parallel else min(1, cluster.gpus_per_node)) if model else 0
    # On a cluster with GPUs, what uses none goes elsewhere.
    aside = not model or (cluster.gpus_per_node > 0 and not gpus)
    ranks = cluster.ranks_per_node if asked.gpus_per_node is None else None
    nodes = asked.nodes or (cluster.nodes if parallel else 1)
    fewest = asked.min_nodes or cluster.min_nodes or nodes
    return Need(
        nodes=nodes,
        ranks_per_node=asked.ranks_per_node or ((ranks or max(1, gpus)) if parallel else 1),
        gpus_per_node=gpus,
        cpus_per_rank=asked.cpus_per_rank or (cluster.cpu_cpus if aside else cluster.cpus_per_rank),
        memory=asked.memory or (cluster.cpu_memory if aside else cluster.memory),
        time=asked.time or cluster.time,
        partition=asked.partition or ((aside and cluster.cpu_partition) or cluster.partition),
        min_nodes=fewest if fewest < nodes else None,
    )


def need_of(cluster: Cluster, resources: Mapping[str, Resources], program: str, stage: str) -> Need:
    """Return what a stage's job needs; UserError where its program cannot use it."""
    about = PROGRAMS[program]
    # It has a precision, or starts programs that do, on checkpoints: it runs a model.
    model = bool({"zero", "dtype", "checkpoints"} & {one.name for one in fields(schema_of(program))})
    asked = asked_of(resources, program, stage)
    found = need(cluster, about.parallel, model, asked)
    if (asked.min_nodes or 0) > found.nodes:
        raise UserError(
            f"resources of {stage}: min_nodes={asked.min_nodes}: need no more than its nodes, {found.nodes}"
        )
    if found.ranks > 1 and not about.parallel:
        raise UserError(f"resources of {stage}: {program} does not share its work among ranks; need one")
    return found


def bytes_of(memory: str) -> float:
    """Return the bytes of a size as Slurm takes it, in mebibytes where it has no unit; 0 is all of a node's."""
    unit = memory[-1] if memory[-1] in "KMGT" else ""
    return float(memory.removesuffix(unit)) * 1024.0 ** "KMGT".find(unit or "M") * 1024


def asked_of(resources: Mapping[str, Resources], program: str, stage: str) -> Resources:
    """Return what is said of a stage and of its program: of the stage it counts more."""
    found = Resources()
    for name in (program.replace(".", "_"), stage):
        own = resources.get(name, Resources())
        found = replace(
            found, **{one.name: value for one in fields(own) if (value := getattr(own, one.name)) is not None}
        )
    return found


def _check_texts(settings: Cluster | Resources, prefix: str, more: tuple[str, ...]) -> None:
    for key in ("partition", *more):
        value = getattr(settings, key)
        if value is not None and not WORD.fullmatch(value):
            raise UserError(f"{prefix}{key}={value!r}: need a name as sbatch takes it, without blanks")
    if settings.time is not None and not TIME.fullmatch(settings.time):
        raise UserError(f'{prefix}time={settings.time}: need "hours:minutes:seconds" or "days-hours:minutes:seconds"')
    _check_memory(f"{prefix}memory", settings.memory)


def _check_memory(key: str, value: str | None) -> None:
    if value is not None and not MEMORY.fullmatch(value):
        raise UserError(f"{key}={value}: need a size such as 900G, or 0 for all of a node's")
