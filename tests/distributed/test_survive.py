"""Ranks that sleep, work for long, or stand on a bad host: found and named, and a run goes on as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch.processes import _environments
from llamatrain.tokenizer import Tokenizer
from llamatrain.watch import EXIT_HUNG

from .driver import Hit, Job, run
from .test_kill import in_step, same_end
from .worlds import make_programs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

HANG = "run.hang_minutes=0.3"


def test_a_rank_put_to_sleep_is_named(tmp_path: Path, tokenizer: Tokenizer, repository: Path) -> None:
    """Rank 1 of SFT between two steps, rank 0 of PPO while it samples: the other one ends both, and they resume exactly."""
    programs = make_programs(tmp_path, tokenizer)
    hits = {"sft": in_step("sft", 4, 1, "SIGSTOP"), "ppo": Hit("llamatrain.generation._step", 30, 0, "SIGSTOP")}
    chains = []
    for program, hit in hits.items():
        whole = Job(program, str(tmp_path / "whole" / program), programs[program], 2)
        hung = Job(program, str(tmp_path / "hung" / program), [*programs[program], HANG], 2, [hit])
        chains.append([whole, hung, Job(program, hung.folder, hung.arguments, 2)])
    for (program, hit), (whole, hung, again) in zip(hits.items(), run(chains, repository), strict=True):
        folder = tmp_path / "hung" / program
        assert whole.codes == [0, 0], whole.output
        asleep, awake = hit.rank, 1 - hit.rank
        assert (hung.codes[asleep], hung.codes[awake]) == (-9, EXIT_HUNG), hung.output
        phase = "train" if hit.function.endswith("Engine.step") else "act"
        assert hung.status["state"] == "failed"
        reason = hung.status["reason"]
        assert reason.startswith(f"hang: rank {asleep} (pid ")
        assert f": no sign of life since then; rank {awake} at step " in reason
        assert f", {phase}, in " in reason
        found = (folder / "hangs" / f"rank_0000{awake}.txt").read_text()
        assert "\nrank 0 (pid " in found and "\nrank 1 (pid " in found
        assert ("fit.py" if program == "sft" else "chunks.py") in found  # where it waits
        assert again.codes == [0, 0], again.output
        assert (again.status["restarts"], again.status["repeated"]) == (1, 1 if program == "sft" else 0)
        same_end(folder, tmp_path / "whole" / program)


def test_ranks_wait_for_one_another_and_look_at_their_hosts(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "tests.distributed.waiting", str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command, cwd=repository, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for environ in _environments(2)
    ]
    said = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert said[0][0].splitlines() == ["ok patience", "ok preflight", "ok timeout"], said
