"""Holds the measuring of power: who measures, what counts, what is written, and that four ranks on a node count once."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from llamatrain import power
from llamatrain.power import GpuCounter, Place, ProcessorCounter, Sampler, measured_by, read_power
from llamatrain.run_files import POWER
from llamatrain.text_files import read_json
from tests.llamatrain.test_run import run_config

ROOT = Path(__file__).parents[2]


def domain(folder: Path, name: str, kind: str, microjoules: int, most: int = 10_000_000) -> Path:
    """Make a counter as Linux shows it."""
    path = folder / name
    path.mkdir(parents=True)
    for file, value in (("name", kind), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (path / file).write_text(f"{value}\n")
    return path


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with one processor, whose platform and memory have counters of their own."""
    folder = tmp_path / "powercap"
    domain(folder, "intel-rapl:0", "package-0", 1_000_000)
    domain(folder, "intel-rapl:0:0", "dram", 1_000_000)
    domain(folder, "intel-rapl:1", "psys", 1_000_000)
    monkeypatch.setattr(power, "POWERCAP", folder)
    return folder


def count(powercap: Path, microjoules: int) -> None:
    """Move every counter on."""
    for path in powercap.glob("*/energy_uj"):
        path.write_text(f"{microjoules}\n")


def test_the_first_rank_of_a_node_measures_it_with_all_its_gpus() -> None:
    places = [Place("a", ("GPU-0",)), Place("b", ("GPU-2",)), Place("a", ("GPU-1",)), Place("b", ("GPU-2",))]
    assert [measured_by(places, rank) for rank in range(4)] == [
        Place("a", ("GPU-0", "GPU-1")),
        Place("b", ("GPU-2",)),  # shared by two ranks, and counted once
        None,
        None,
    ]
    four = [Place("a")] * 4
    assert [measured_by(four, rank) for rank in range(4)] == [Place("a"), None, None, None]


def test_a_processor_is_counted_alone_and_its_counter_may_go_round(powercap: Path) -> None:
    counter = power._counter(Place("a"))
    assert isinstance(counter, ProcessorCounter) and counter.devices == os.cpu_count()
    count(powercap, 9_000_000)
    assert counter.joules() == 8
    count(powercap, 500_000)  # 10 J is its range
    assert counter.joules() == 9.5


def test_nothing_is_written_where_nothing_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "POWERCAP", tmp_path / "none")
    Sampler(tmp_path).close()
    assert list(tmp_path.iterdir()) == [] and read_power(tmp_path) is None


def test_what_may_not_be_read_is_not_measured(powercap: Path, tmp_path: Path) -> None:
    (powercap / "intel-rapl:0" / "energy_uj").unlink()  # as root, who may read all, the tests see no refusal
    assert power._counter(Place("a")) is None


def test_attempts_add_up_and_a_killed_one_keeps_what_it_took(
    powercap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power, "EVERY", 0.01)
    first = Sampler(tmp_path)
    count(powercap, 4_000_000)
    while (found := read_power(tmp_path)) is None or found.joules < 3:  # written without an end
        pass
    first._closed.set()
    second = Sampler(tmp_path)
    count(powercap, 6_000_000)
    second.close()
    found = read_power(tmp_path)
    assert found is not None and found.joules == 5 and found.device == "core"
    assert found.watts == pytest.approx(5 / found.device_seconds)


def test_a_run_says_in_its_status_what_it_took(powercap: Path, tmp_path: Path) -> None:
    from llamatrain.run import Run

    with Run(run_config(tmp_path), "test", {}, data={}) as run:
        count(powercap, 3_500_000)
    told = read_json(run.folder / "status.json", dict)["power"]
    assert told["joules"] == 2.5 and told["device"] == "core" and told["device_seconds"] > 0


class Nvml(types.ModuleType):
    """The driver, planted: each GPU has taken 1 kJ, and 2 kJ more with every look."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.looks: dict[str, int] = {}
        self.open = 0

    NVMLError = type("NVMLError", (Exception,), {})

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, gpu: str) -> str:
        return gpu

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: str) -> int:
        if gpu == "GPU-old":
            raise self.NVMLError("Not Supported")
        self.looks[gpu] = self.looks.get(gpu, -1) + 1
        return 1_000_000 + 2_000_000 * self.looks[gpu]


def test_gpus_are_counted_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml: Any = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    counter = power._counter(Place("a", ("GPU-0", "GPU-1")))
    assert isinstance(counter, GpuCounter) and counter.devices == 2
    assert counter.joules() == 4000
    counter.close()
    assert nvml.open == 0
    assert power._counter(Place("a", ("GPU-old",))) is None  # then its stated power counts


@pytest.mark.slow
@pytest.mark.distributed
def test_four_ranks_on_a_node_count_its_energy_once(tmp_path: Path) -> None:
    domain(tmp_path / "powercap", "intel-rapl:0", "package-0", 1_000_000)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    worker = str(Path(__file__).with_name("power_worker.py"))
    done = subprocess.run([*launcher, worker, str(tmp_path)], env=environ, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in (tmp_path / "run" / POWER).iterdir()] == [".json"]
    found = read_power(tmp_path / "run")
    assert found is not None and found.joules == 5.0
    assert read_json(tmp_path / "run" / "status.json", dict)["power"]["joules"] == 5.0
