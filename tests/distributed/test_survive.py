"""Ranks that sleep, work for long, or stand on a bad node: found and named, and a run goes on as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch.processes import _environments
from llamatrain.tokenizer import Tokenizer
from llamatrain.watch import EXIT_HUNG

from .driver import Hit, Job, run
from .test_kill import TOKEN, in_step, same_end
from .worlds import make_programs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

HANG = "run.hang_minutes=0.3"


def test_a_rank_put_to_sleep_is_named(tmp_path: Path, tokenizer: Tokenizer, repository: Path) -> None:
    """Rank 1 of SFT between two steps, rank 0 of PPO while it samples: the other one ends both, and they resume exactly."""
    programs = make_programs(tmp_path, tokenizer)
    hits = {"sft": in_step("sft", 4, 1, "SIGSTOP"), "ppo": Hit(TOKEN, 30, 0, "SIGSTOP")}
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
        # Step 3 of SFT is taken again; its line may not have been written before the end. So are the steps before it where
        # rank 1 fell asleep as it still wrote their checkpoint.
        assert again.status["restarts"] == 1 and again.status["repeated"] in (range(4) if program == "sft" else (0,))
        same_end(folder, tmp_path / "whole" / program)


def test_a_rank_that_sleeps_before_the_run_begins_is_named(
    tmp_path: Path, tokenizer: Tokenizer, repository: Path
) -> None:
    """Rank 1 of SFT as it opens the run, rank 0 of PPO before the ranks have met."""
    programs = make_programs(tmp_path, tokenizer)
    hits = {
        "sft": Hit("llamatrain.run.RunFolder.__init__", 1, 1, "SIGSTOP"),
        "ppo": Hit("llamatrain.distributed._meet", 1, 0, "SIGSTOP"),
    }
    chains = []
    for program, hit in hits.items():
        hung = Job(program, str(tmp_path / program), [*programs[program], HANG], 2, [hit])
        chains.append([hung, Job(program, hung.folder, hung.arguments, 2)])
    for (program, hit), (hung, again) in zip(hits.items(), run(chains, repository), strict=True):
        asleep, awake = hit.rank, 1 - hit.rank
        assert (hung.codes[asleep], hung.codes[awake]) == (-9, EXIT_HUNG), hung.output
        said = f"error: hang: rank {asleep} (pid "
        assert said in hung.output and ": no sign of life since then; rank " in hung.output
        found = (tmp_path / program / f"hangs/rank_0000{awake}.txt").read_text()
        assert ("fail_together" if program == "sft" else "_meet") in found  # where it waits
        assert again.codes == [0, 0] and again.status["state"] == "done", again.output


def test_programs_that_measure_stop_at_a_signal_to_one_rank(
    tmp_path: Path, tokenizer: Tokenizer, repository: Path
) -> None:
    """In the middle of sampling, of scoring and of measuring; what they write in the end is the same."""
    make_programs(tmp_path, tokenizer)
    world, quiet = tmp_path / "world", ["run.progress=false", "run.wandb.mode=disabled"]
    prompts = f"prompts=[{world / 'prompts.jsonl'}]"
    short = "sampling.max_new_tokens=20"
    scored = [f"{kind}={world / kind}" for kind in ("helpfulness", "safety")]
    jobs: dict[str, tuple[list[str], str, int, str]] = {
        "compare": (
            [f"checkpoint_a={world / 'policy'}", prompts, "chunk_pairs=2", short],
            *(TOKEN, 20, "comparisons.jsonl"),
        ),
        "sample": (
            [f"checkpoint={world / 'policy'}", *scored, prompts, "chunk_responses=2", "score_batch_size=1", short],
            *("llamatrain.responses.scoring.scores_at_end", 3, "responses.jsonl"),
        ),
        "distill": (
            [
                *(f"checkpoint={world / 'policy'}", f"safety={world / 'safety'}", prompts, "chunk_pairs=8"),
                *("samples_per_prompt=16", "sampling.max_new_tokens=40", "preprompts=toyworld", "require_better=false"),
            ],
            *(TOKEN, 20, "distilled.jsonl"),
        ),
        "recall": (
            [
                *(f"checkpoint={world / 'policy'}", f"dialogues=[{world / 'sft.jsonl'}]", "turns=[1,2]"),
                *("chunk_dialogues=1", "max_dialogues=6", short),
            ],
            *(TOKEN, 20, "recall.jsonl"),
        ),
        "reward.evaluate": (
            [f"checkpoint={world / 'helpfulness'}", f"preferences=[{tmp_path / 'pairs.jsonl'}]", "micro_batch_size=1"],
            *("llamatrain.responses.pairs.scores_at_ends", 2, "scores.jsonl"),
        ),
        "evaluate": (
            [
                f"models={{a:{{checkpoint:{world / 'policy'}}}}}",
                f"corpus={tmp_path / 'corpus' / 'train'}",
                "micro_batch_size=1",
            ],
            *("llamatrain.prefetch.on_device", 1, "evaluation.json"),
        ),
    }
    chains = []
    for program, (arguments, function, nth, _) in jobs.items():
        whole = Job(program, str(tmp_path / "whole" / program), [*quiet, *arguments], 2)
        cut = replace(whole, folder=str(tmp_path / "cut" / program))
        chains.append([whole, replace(cut, hits=[Hit(function, nth, 1, "SIGTERM")]), cut])
    for (program, (*_, made)), results in zip(jobs.items(), run(chains, repository), strict=True):
        assert [result.codes for result in results] == [[0, 0], [75, 75], [0, 0]], (program, results)
        assert results[1].status["state"] == "stopped" and "Traceback" not in results[1].output
        assert (tmp_path / "cut" / program / made).read_bytes() == (tmp_path / "whole" / program / made).read_bytes()


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
