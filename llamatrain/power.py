"""What the devices of a run's nodes draw, by the machines' own counters: once per node, by its first rank, never per rank.

    runs/<name>/.power/<host>.json   joules and device seconds of a node, over all attempts

GPUs count their energy in the driver (NVML, where nvidia-ml-py is installed); without GPUs the processors do in Linux's
powercap (RAPL), where the user may read it: most systems let only root. A thread reads the counters now and then, so that
a killed run keeps what it took. Where nothing counts, nothing is written. A GPU that several ranks share counts once; a
processor's energy is that of all its cores, so its device seconds are those of all cores, too. Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from . import distributed
from .run_files import POWER
from .text_files import read_json

EVERY = 30.0  # seconds between two readings: a processor's counter goes round in several minutes at the least
POWERCAP = Path("/sys/class/powercap")


@dataclass
class Power:
    """What devices took."""

    device: str = ""  # GPU or core
    joules: float = 0.0
    device_seconds: float = 0.0

    @property
    def watts(self) -> float:
        """The mean power of a device."""
        return self.joules / self.device_seconds if self.device_seconds else 0.0


@dataclass(frozen=True)
class Place:
    """Where a rank is, and the GPU that it uses, by its UUID; or the node that is measured, with all its ranks' GPUs."""

    host: str
    gpus: tuple[str, ...] = ()


class Counter(Protocol):
    """Counts the energy of some devices."""

    device: str
    devices: int

    def joules(self) -> float:
        """Return the joules since the counter was made."""

    def close(self) -> None:
        """Let go of it."""


def measured_by(places: Sequence[Place], rank: int) -> Place | None:
    """Return the node that a rank measures: its own, where it is the first rank there; None for every other rank."""
    here = [number for number, place in enumerate(places) if place.host == places[rank].host]
    if rank != here[0]:
        return None
    return Place(places[rank].host, tuple(dict.fromkeys(gpu for number in here for gpu in places[number].gpus)))


def read_power(folder: Path) -> Power | None:
    """Return what all nodes of a run took so far, over all attempts; None where no machine counted."""
    found = list[Power]()
    for path in sorted((folder / POWER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append(read_json(path, Power))
    device = "GPU" if any(one.device == "GPU" for one in found) else "core"  # of a run that went over to GPUs: theirs
    joules = sum(one.joules for one in found if one.device == device)
    seconds = sum(one.device_seconds for one in found if one.device == device)
    return Power(device, joules, seconds) if seconds else None


class Sampler:
    """Measures a run's node on its first rank until it is closed; made on all ranks together."""

    def __init__(self, folder: Path) -> None:
        places = distributed.gather_objects(Place(socket.gethostname(), _own_gpu()))
        place = measured_by(places, distributed.rank())
        self._counter = _counter(place) if place is not None else None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if place is None or self._counter is None:
            return
        self._path = folder / POWER / f"{place.host}.json"
        self._before = Power(self._counter.device)
        with contextlib.suppress(OSError, ValueError):  # of an earlier attempt
            before = read_json(self._path, Power)
            self._before = before if before.device == self._counter.device else self._before
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._sample, name="power", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Read the counters a last time."""
        if self._thread is not None and self._counter is not None:
            self._closed.set()
            self._thread.join()
            self._thread = None
            self._write()
            self._counter.close()

    def _sample(self) -> None:
        while not self._closed.wait(EVERY):
            self._write()

    def _write(self) -> None:
        assert self._counter is not None
        try:
            joules, seconds = self._counter.joules(), time.monotonic() - self._started
        except (OSError, ValueError, RuntimeError):  # a counter that is gone: what it told before stays
            return
        now = Power(
            self._before.device,
            round(self._before.joules + joules, 3),
            round(self._before.device_seconds + seconds * self._counter.devices, 3),
        )
        with contextlib.suppress(OSError):  # of a disk that is full or out of reach: the next reading has all of it
            self._path.parent.mkdir(exist_ok=True)
            temporary = self._path.with_name(f".{self._path.name}.tmp")
            temporary.write_text(json.dumps(asdict(now)), encoding="utf-8")
            os.replace(temporary, self._path)


# --- counters ----------------------------------------------------------------------------------------------------


def _counter(place: Place) -> Counter | None:
    """Return what counts the energy of a node's GPUs, or of its processors where its ranks use none; None without either."""
    if place.gpus:
        try:
            return GpuCounter(place.gpus)
        except (ImportError, RuntimeError):  # not installed, or a driver or GPU that does not count
            return None
    domains = [one for one in sorted(POWERCAP.glob("intel-rapl:*")) if one.name.count(":") == 1 and _is_package(one)]
    try:
        return ProcessorCounter(domains) if domains else None
    except (OSError, ValueError):  # not for us to read
        return None


class GpuCounter:
    """The driver's count of GPUs' energy, by NVML: of Volta and later."""

    device = "GPU"

    def __init__(self, gpus: Sequence[str]) -> None:
        import pynvml

        self._nvml: Any = pynvml
        self.devices = len(gpus)
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus]
            self._first = self._total()
        except pynvml.NVMLError as error:
            raise RuntimeError(str(error)) from None

    def joules(self) -> float:
        """Return the joules since the counter was made."""
        try:
            return (self._total() - self._first) / 1000
        except self._nvml.NVMLError as error:
            raise RuntimeError(str(error)) from None

    def close(self) -> None:
        """Let go of NVML."""
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _total(self) -> int:
        return sum(int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in self._handles)  # mJ


class ProcessorCounter:
    """The processors' count of their own energy, whose counters go round; devices are all cores of the machine."""

    device = "core"

    def __init__(self, domains: Sequence[Path]) -> None:
        self._domains = domains
        self._ranges = [_number(domain / "max_energy_range_uj") for domain in domains]
        self._last = [_number(domain / "energy_uj") for domain in domains]
        self._microjoules = 0
        self.devices = os.cpu_count() or 1

    def joules(self) -> float:
        """Return the joules since the counter was made; read often enough that none goes round twice in between."""
        now = [_number(domain / "energy_uj") for domain in self._domains]
        for new, last, most in zip(now, self._last, self._ranges, strict=True):
            self._microjoules += new - last if new >= last else new - last + most
        self._last = now
        return self._microjoules / 1e6

    def close(self) -> None:
        """Nothing is held."""


def _own_gpu() -> tuple[str, ...]:
    """Return the UUID of this rank's GPU, where the program has imported torch and torch sees one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return ()
    return (f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}",)


def _is_package(domain: Path) -> bool:
    """Whether a domain is a processor: the whole platform's would count it once more."""
    try:
        return (domain / "name").read_text(encoding="utf-8").startswith("package")
    except OSError:
        return False


def _number(path: Path) -> int:
    return int(path.read_text(encoding="utf-8"))
