"""How the code tasks score: the programs of all problems are run in sandboxes, several at a time; pass@k per problem."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llamatrain import distributed, heartbeat

from .sandbox import passes

Row = Mapping[str, Any]


def humaneval(row: Row, text: str) -> str:
    """Return HumanEval's program: the function as it was completed, and its test."""
    return f"{row['prompt']}{text}\n{row['test']}\ncheck({row['entry_point']})\n"


def mbpp(row: Row, text: str) -> str:
    """Return MBPP's program: what was written, and its tests."""
    return "\n".join([row.get("test_setup_code", ""), text, *row["test_list"], ""])


PROGRAMS: dict[str, Callable[[Row, str], str]] = {"humaneval": humaneval, "mbpp": mbpp}


def runs(task: str, seconds: float) -> Callable[[Sequence[Sequence[str]], Sequence[Row]], list[list[bool]]]:
    """Return the harness's filter that runs what was written for each problem of a task, and says which passed.

    Rank 0 runs them, whose results count; the others pass nothing.
    """

    def run(responses: Sequence[Sequence[str]], rows: Sequence[Row]) -> list[list[bool]]:
        if not distributed.is_main():
            return [[False] * len(own) for own in responses]
        programs = [PROGRAMS[task](row, text) for row, own in zip(rows, responses, strict=True) for text in own]

        def passed(program: str) -> bool:
            heartbeat.beat("run code")
            return passes(program, seconds)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = iter(list(pool.map(passed, programs)))
        return [[next(found) for _ in own] for own in responses]

    return run


def score(ks: Iterable[int]) -> Callable[[Row, list[list[bool]]], dict[str, float]]:
    """Return the harness's score of a problem from which of its programs passed: pass@k for each k."""

    def scored(row: Row, results: list[list[bool]]) -> dict[str, float]:
        passed = results[0]
        return {f"pass@{k}": pass_at_k(len(passed), sum(passed), k) for k in ks}

    return scored


def pass_at_k(programs: int, passed: int, k: int) -> float:
    """Return the unbiased estimate that one of k programs passes, where `passed` of all do (arXiv:2107.03374)."""
    return 1 - math.comb(programs - passed, k) / math.comb(programs, k)
