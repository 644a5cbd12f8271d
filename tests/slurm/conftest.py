"""A real Slurm with two virtual nodes on this machine, for one session of tests.

Where it cannot be, the tests skip and say why; with REQUIRE_SLURM=1 in the environment they fail instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .cluster import Lab, started, why_not


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skip, or fail, where Slurm cannot run."""
    reason = why_not()
    if reason and os.environ.get("REQUIRE_SLURM") == "1":
        pytest.fail(f"REQUIRE_SLURM=1, but {reason}")
    if reason:
        pytest.skip(f"no Slurm here: {reason}")


@pytest.fixture(scope="session")
def lab(slurm: None) -> Iterator[Lab]:
    """The cluster, started once."""
    with started(nodes=2) as lab:
        yield lab
