"""Malformed input ends in one line and exit code 2, or in success where a program can do without it: never in a traceback.

Every case runs the real program in a child of a fork server, which has imported everything once.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.programs import PROGRAMS
from llamatrain.tokenizer import Tokenizer
from tests.distributed.driver import Job, Result, run

from .cases import Case, cases
from .world import Worlds, has_run

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

LEAST = 20  # cases of each program and of each kind of file
# Programs whose modules hold a good part of what the others import.
IMPORTED = [program.module for program in PROGRAMS.values() if program.module not in ("sft", "pretrain", "reward")]


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, repository: Path
) -> list[tuple[Case, Result]]:
    here = tmp_path_factory.mktemp("fuzz")
    worlds = Worlds(here, tokenizer)
    finished = {name: here / "finished" / name for name in ("sft", "ppo", "sample", "corpus", "reward.evaluate")}
    jobs = [[Job(name, str(folder), worlds.fine[name], quiet=True)] for name, folder in finished.items()]
    for [result] in run(jobs, repository, IMPORTED):
        assert result.codes == [0], result.output
    made = list(cases(worlds, finished))
    jobs = [[job(case, here, str(number))] for number, case in enumerate(made)]
    return list(zip(made, (result for [result] in run(jobs, repository, IMPORTED)), strict=True))


def job(case: Case, here: Path, number: str) -> Job:
    own = str(case.run or here / "runs" / number) if has_run(case.program) and not case.whole else ""
    return Job(case.program, own, list(case.arguments), quiet=True, plain=True, here=str(here / "at work" / number))


def fault(case: Case, result: Result) -> str:
    """Return what is wrong with how a case ended, empty where nothing is."""
    (code,) = result.codes
    said = [line for line in result.output.splitlines() if not line.startswith("warning: ")]
    errors = [line for line in said if line.startswith("error: ")]
    if "Traceback" in result.output:
        return "a traceback"
    if code not in (0, 2):
        return f"exit code {code}"
    if code == 2 and (len(errors) != 1 or errors != said[-1:]):
        return "not one line"
    if code == 0 and (errors or case.group == "command line"):
        return "success"
    return "too long a line" if max(map(len, said), default=0) > 2500 else ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_malformed_input_ends_in_one_line(program: str, results: list[tuple[Case, Result]]) -> None:
    own = [(case, result) for case, result in results if case.program == program]
    assert len(own) >= LEAST
    wrong = [(fault(*pair), *pair) for pair in own if fault(*pair)]
    assert not wrong, f"{len(wrong)} of {len(own)}: " + "\n\n".join(
        f"{case.group}: {case.name}: {what}\n{result.output[-1500:]}" for what, case, result in wrong[:10]
    )


def test_every_kind_of_file_is_tried(results: list[tuple[Case, Result]]) -> None:
    counts: dict[str, int] = {}
    for case, _ in results:
        counts[case.group] = counts.get(case.group, 0) + 1
    assert min(counts.values()) >= LEAST, counts
