"""What plans reckon with: the hardware of a cluster, or of this machine, and what a rank of a program gets of it. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from .capacity import USED
from .keys import KEEPS, above, check_values

NODE = 8  # GPUs of a node, where nobody says
# Peaks in bfloat16, dense, TFLOP/s, by GPUs' makers.
PEAKS = {
    "V100": 125,
    "T4": 65,
    "A10": 125,
    "L4": 121,
    "L40": 181,
    "A100": 312,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
}
# Pretraining reaches these shares of a GPU's peak by 6N: the paper's GPU hours imply them (2.2.1, table 2), 34B the least,
# 70B the most.
MFU = 0.35, 0.43
# Of the speed that pretraining reached on a core (Hardware.core_gflops): small models and short rows reach less, large ones more.
CORE_SHARE = 0.7, 1.3
# Of its memory's bandwidth that a GPU reaches as it writes tokens, one after the other (an assumption).
READ_SHARE = 0.3, 0.6
# With states in host memory (assumptions): parameters that the CPUs of a node update per second with AdamW, the order of
# what ZeRO-Offload reports (2101.06840), and bytes per second between a GPU and its host, most of PCIe 4's 32 GB/s.
HOST_UPDATES = 4e9
HOST_LINK = 25e9
SINGLE_PEAK = 1 / 16  # of the peak in bfloat16 that float32 has: A100 19.5 of 312 TFLOP/s


def peak_of(gpu: str) -> float | None:
    """Return the peak of a GPU by its name, TFLOP/s; None of an unknown one. Of names that begin alike the longest counts."""
    return max(((len(name), float(peak)) for name, peak in PEAKS.items() if name in gpu), default=(0, None))[1]


@dataclass
class Hardware:
    """Nodes and devices; configs/cluster/ says what each key means, and where its value is from."""

    gpu: str = field(metadata=KEEPS)
    gpu_gigabytes: float = field(metadata=above(0) | KEEPS)
    gpu_tflops: float = field(metadata=above(0) | KEEPS)
    gpu_gigabytes_per_second: float = field(metadata=above(0) | KEEPS)
    link_gigabytes_per_second: float = field(metadata=above(0) | KEEPS)
    network_gigabytes_per_second: float = field(metadata=above(0) | KEEPS)
    node_gigabytes: float = field(metadata=above(0) | KEEPS)
    core_gflops: float = field(metadata=above(0) | KEEPS)
    disk_gigabytes_per_second: float = field(metadata=above(0) | KEEPS)

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self, "cluster.hardware.")


@dataclass(frozen=True)
class Machine:
    """What the ranks of one program run on."""

    hardware: Hardware
    nodes: int
    ranks_per_node: int
    gpus: bool
    cores_per_rank: float = 1.0
    node_bytes: float = 0.0  # of host memory that a job may use; 0: the hardware's

    @property
    def ranks(self) -> int:
        """How many processes share the work."""
        return self.nodes * self.ranks_per_node

    @property
    def device(self) -> str:
        """How torch calls what a rank computes on."""
        return "cuda" if self.gpus else "cpu"

    @property
    def host(self) -> float:
        """Bytes of a node's host memory."""
        return self.node_bytes or self.hardware.node_gigabytes * 1e9

    @property
    def memory(self) -> float:
        """Bytes of memory that a rank computes in: its GPU's, or its share of the node's."""
        return self.hardware.gpu_gigabytes * 1e9 if self.gpus else self.host / self.ranks_per_node

    @property
    def usable(self) -> float:
        """What of it may be filled: the rest is the process's own, and what an allocator cannot hand out."""
        return USED * self.memory

    def speed(self, dtype: str) -> tuple[float, float]:
        """Return between which floating-point operations per second a rank trains."""
        if self.gpus:
            peak = self.hardware.gpu_tflops * 1e12 * (1.0 if dtype == "bfloat16" else SINGLE_PEAK)
            return MFU[0] * peak, MFU[1] * peak
        cores = self.hardware.core_gflops * 1e9 * self.cores_per_rank
        return CORE_SHARE[0] * cores, CORE_SHARE[1] * cores

    @property
    def joined(self) -> float:
        """Bytes per second that pass a rank in a ring: between nodes each GPU's own adapter carries a share of them."""
        within = self.hardware.link_gigabytes_per_second
        between = self.hardware.network_gigabytes_per_second * self.ranks_per_node
        return min(within, between if self.nodes > 1 else within) * 1e9

    def __str__(self) -> str:
        """Say it for people."""
        if not self.gpus:
            cores = f"{self.cores_per_rank:g} core{'s' * (self.cores_per_rank != 1)}"
            return f"{self.ranks:,} rank{'s' * (self.ranks > 1)} of {cores}"
        nodes = f" ({self.nodes:,} nodes of {self.ranks_per_node})" if self.nodes > 1 else ""
        return f"{self.ranks:,} {self.hardware.gpu}{nodes}"
