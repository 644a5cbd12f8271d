"""A short look at every host before a run on several ranks (`run.preflight`): a bad one costs a night, the look seconds.

Memory, the disks of the run and of temporary files (free space, a file written and read back), the links between the
hosts, and the clocks. Bad nodes are named by rank, figure and need, listed one per line in <run>/bad_nodes.txt, and the
run ends with exit code 76 on all ranks: a job may then exclude them.

All of a host's ranks share its disks and links, so the first rank of each looks at them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from . import atomic, distributed, heartbeat
from .errors import BadNodeError
from .progress import counted
from .replaced import size

LIST = "bad_nodes.txt"
MEMORY = 1e9  # bytes that a host has left for each of its ranks
DEVICE_MEMORY = 0.9  # share of a GPU's memory that is free before anything is loaded
DISK = 1e9  # free bytes
DISK_SPEED, FILE = 5e6, 16 << 20  # bytes per second, of a file of so many bytes
LINK_SPEED = {"cpu": 10e6, "cuda": 500e6}  # bytes per second between two hosts
LINK_BYTES = {"cpu": 4 << 20, "cuda": 64 << 20}
SLOWER = 4  # times than the others' median, from three hosts on
CLOCKS = 5.0  # seconds between a host's clock and the others' median


@dataclass
class Report:
    """What a rank found of its host; figures of disks and links are the first rank's of each."""

    host: str
    rank: int
    memory: float  # bytes that are available for each rank
    device_memory: float  # share that is free
    disks: dict[str, tuple[float, float]] = field(default_factory=dict)  # name -> free bytes, bytes per second
    failures: dict[str, str] = field(default_factory=dict)  # what could not be done
    links: list[float] = field(default_factory=list)  # bytes per second
    clock: float = 0.0  # seconds since the epoch


@dataclass(frozen=True)
class Fault:
    """What is wrong with a host."""

    host: str
    rank: int
    what: str
    figure: str
    need: str

    def __str__(self) -> str:
        return f"{self.host} (rank {self.rank}): {self.what} {self.figure}, need {self.need}"


def asked(key: bool) -> bool:
    """Tell whether it is to be done: `run.preflight`, or LLAMATRAIN_PREFLIGHT=true, as a cluster's environment sets it."""
    return distributed.world_size() > 1 and (key or os.environ.get("LLAMATRAIN_PREFLIGHT") == "true")


def check(folder: Path, say: Callable[[str], None]) -> None:
    """Look at the hosts of all ranks, which call this together; BadNodeError on all of them where one is bad."""
    started = time.monotonic()
    with heartbeat.phase("preflight"):
        reports = look(folder)
    found = faults(reports, distributed.device().type)
    if not found:
        hosts, links = {report.host for report in reports}, [link for report in reports for link in report.links]
        slowest = f", the slowest link {size(min(links))}/s" if links else ""
        where = f"{counted(len(reports), 'rank')} on {counted(len(hosts), 'host')}"
        say(f"preflight: {where} in {time.monotonic() - started:.1f} s{slowest}")
        return
    if distributed.is_main():
        atomic.write_text(folder / LIST, "".join(f"{host}\n" for host in dict.fromkeys(fault.host for fault in found)))
    distributed.barrier()
    raise BadNodeError(f"bad node: {'; '.join(map(str, found))}")


def look(folder: Path) -> list[Report]:
    """Return every rank's report, on all ranks."""
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    hosts = distributed.gather_objects(host)
    report = Report(host, distributed.rank(), _memory() / hosts.count(host), _device_memory())
    first = [hosts.index(one) for one in dict.fromkeys(hosts)]  # of each host
    if report.rank in first:
        for name, place in (("disk of the run", folder), ("disk for temporary files", Path(tempfile.gettempdir()))):
            heartbeat.beat("read")
            try:
                report.disks[name] = shutil.disk_usage(place).free, _disk_speed(place)
            except OSError as error:
                report.failures[name] = error.strerror or str(error)
    report.links = _links(first if len(first) > 1 else list(range(len(hosts))))
    distributed.barrier()
    report.clock = time.time()
    return distributed.gather_objects(report)


def faults(reports: Sequence[Report], device: str) -> list[Fault]:
    """Return what is wrong with which hosts, by the figures of all ranks."""
    found = []
    now, least = median(report.clock for report in reports), LINK_SPEED[device]
    if len(links := [max(report.links) for report in reports if report.links]) > 2:
        least = max(least, median(links) / SLOWER)
    for report in reports:
        for what, figure, need, shown in (
            ("available memory per rank", report.memory, MEMORY, size),
            ("free memory of its GPU", report.device_memory, DEVICE_MEMORY, "{:.0%}".format),
            *((f"free space on the {name}", free, DISK, size) for name, (free, _) in report.disks.items()),
            *((f"speed of the {name}", speed, DISK_SPEED, _rate) for name, (_, speed) in report.disks.items()),
            # Of two neighbours the better link counts: the other one may be the neighbour's fault.
            *(("link", max(report.links), least, _rate) for _ in report.links[:1]),
        ):
            if figure < need:
                found.append(Fault(report.host, report.rank, what, shown(figure), f"{shown(need)} or more"))
        for name, why in report.failures.items():
            found.append(Fault(report.host, report.rank, name, why, "to write and read a file"))
        if abs(report.clock - now) > CLOCKS:
            off = f"{report.clock - now:+.1f} s off the others'"
            found.append(Fault(report.host, report.rank, "clock", off, f"{CLOCKS:g} s or less"))
    return found


def _rate(speed: float) -> str:
    return f"{size(speed)}/s"


def _memory() -> float:
    """Return the bytes of this host's memory that are available."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * float(line.split()[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))


def _device_memory() -> float:
    import torch

    if not torch.cuda.is_available():
        return 1.0
    free, total = torch.cuda.mem_get_info()
    return free / total


def _disk_speed(folder: Path) -> float:
    """Return the bytes per second of the slower of writing a file to the disk and reading it; OSError where it differs."""
    path, content = folder / f".preflight_{distributed.rank()}", os.urandom(1 << 20)
    try:
        started = time.monotonic()
        with path.open("wb") as file:
            for _ in range(FILE // len(content)):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # so that it is read from the disk
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        written = time.monotonic()
        with path.open("rb") as file:
            if any(part != content for part in iter(lambda: file.read(len(content)), b"")):
                raise OSError(0, "a file reads otherwise than it was written")
        return FILE / max(written - started, time.monotonic() - written)
    finally:
        path.unlink(missing_ok=True)


def _links(ring: Sequence[int]) -> list[float]:
    """Measure the links of each rank in the ring with its two neighbours, those apart at the same time."""
    speeds = []
    places = range(len(ring))
    pairs = [(place, (place + 1) % len(ring)) for place in places][: len(ring) if len(ring) > 2 else len(ring) - 1]
    # A link at an even place, then one at an odd place; of a ring of odd length the last one by itself.
    last = pairs.pop() if len(pairs) % 2 and len(pairs) > 1 else None
    for turn in (pairs[::2], pairs[1::2], [last] if last else []):
        distributed.barrier()
        for one, other in turn:
            if distributed.rank() in (ring[one], ring[other]):
                speeds.append(_link(ring[one], ring[other]))
    return speeds


def _link(one: int, other: int) -> float:
    """Return the bytes per second between two ranks, there and back after a first small message."""
    import torch
    import torch.distributed as dist

    kind = distributed.device().type
    for number in (1, LINK_BYTES[kind]):
        message = torch.zeros(number, dtype=torch.uint8, device=distributed.device())
        started = time.monotonic()
        with heartbeat.collective(f"send from rank {one} to {other}"):
            for sender, receiver in ((one, other), (other, one)):
                if distributed.rank() == sender:
                    dist.send(message, receiver)
                else:
                    dist.recv(message, sender)
            message[0].item()  # a GPU is waited for
        seconds = time.monotonic() - started
    return 2 * number / seconds
