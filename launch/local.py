"""Runs a pipeline's stages on this machine, one after the other, until one fails, waits for people or is stopped."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Planned
from .stage import Runner


def run_stages(runner: Runner, stages: Sequence[Planned], total: int) -> int:
    """Run stages in their order and return the exit code; `total` is how many the pipeline has."""
    for number, one in enumerate(stages, 1):
        if runner.processes.stopped:
            return runner.not_started(one)
        code = runner.run(one, f"{number}/{total}")
        if code:
            return code
    return 0
