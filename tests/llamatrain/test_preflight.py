"""Bad nodes are told from good ones by their figures."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from llamatrain import preflight
from llamatrain.preflight import Report, faults, look

GOOD = Report("a", 0, 8e9, 1.0, {"disk of the run": (1e12, 2e8)}, {}, [1e9, 1e9], 1000.0)
HOSTS = [replace(GOOD, host=f"host{rank}", rank=rank) for rank in range(4)]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"memory": 5e8}, "host2 (rank 2): available memory per rank 500 MB, need 1.0 GB or more"),
        ({"device_memory": 0.5}, "host2 (rank 2): free memory of its GPU 50%, need 90% or more"),
        ({"disks": {"scratch": (1e6, 1e9)}}, "host2 (rank 2): free space on the scratch 1 MB, need 1.0 GB or more"),
        ({"disks": {"scratch": (1e12, 1e6)}}, "host2 (rank 2): speed of the scratch 1 MB/s, need 5 MB/s or more"),
        ({"failures": {"scratch": "read-only"}}, "host2 (rank 2): scratch read-only, need to write and read a file"),
        ({"links": [5e6, 4e6]}, "host2 (rank 2): link 5 MB/s, need 250 MB/s or more"),
        ({"clock": 1060.0}, "host2 (rank 2): clock +60.0 s off the others', need 5 s or less"),
    ],
)
def test_the_bad_node_alone_is_named(changes: dict[str, object], found: str) -> None:
    reports = [replace(report, **changes) if report.rank == 2 else report for report in HOSTS]
    assert [str(fault) for fault in faults(reports, "cpu")] == [found]


def test_good_hosts_have_no_faults() -> None:
    assert not faults(HOSTS, "cuda")
    # A neighbour of a bad node has one good link.
    assert not faults([replace(HOSTS[0], links=[1e6, 1e9]), *HOSTS[1:]], "cpu")


def test_two_hosts_with_a_slow_link_are_both_named() -> None:
    slow = [replace(report, links=[1e6]) for report in HOSTS[:2]]
    assert [fault.host for fault in faults(slow, "cpu")] == ["host0", "host1"]


def test_what_a_host_is_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (report,) = look(tmp_path)
    assert report.memory > 0 and report.disks.keys() == {"disk of the run", "disk for temporary files"}
    assert not list(tmp_path.iterdir())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    (report,) = preflight.look(tmp_path)
    assert report.failures["disk of the run"] == "No space left on device" and not list(tmp_path.iterdir())
