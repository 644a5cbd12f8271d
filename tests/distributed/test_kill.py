"""A run that is killed or stopped, wherever it is, and started again ends as if nothing had happened, byte by byte."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import read_jsonl

from .driver import Hit, Job, Result, run
from .worlds import PROGRAMS, STEPS, make_programs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

FILES = ("final/model.safetensors", "best.jsonl", "responses.jsonl", "samples.jsonl")
UPDATES = {"ppo": 4}  # calls of Engine.step a step: two mini-batches, policy and critic
TOKEN = "llamatrain.model.decoding.Decoding.logits"  # called once per step of the sequences being sampled
LAST = -1  # rank 1 of two, rank 0 of one

Plan = tuple[str, int, str]  # program, ranks, what happens


def in_step(program: str, step: int, rank: int, name: str = "SIGKILL") -> Hit:
    """A hit between backward pass and update in the n-th step after the start."""
    return Hit("llamatrain.engine.learning.Engine.step", (step - 1) * UPDATES.get(program, 1) + 1, rank, name)


def kills(program: str) -> list[Hit]:
    """Where a program is killed, one start after the other; it saves at steps 2, 4 and 6."""
    learning = in_step(program, 4, LAST)
    before = {
        "rejection_sampling": [
            Hit(TOKEN, 60, LAST),  # inside a chunk
            Hit("llamatrain.run.Run.stop_requested", 2),  # between two chunks
            learning,
        ],
        "ppo": [
            Hit("rlhf.experience.credit", 3, LAST),  # responses are judged, nothing is learned from them
            Hit("llamatrain.responses.stored.write", 1),  # likewise, as the iteration is to be stored
            Hit("rlhf.kept.forget", 2),  # it is stored, and what was kept of it is still there
            in_step(program, 1, LAST),  # it is stored alone
            Hit("llamatrain.responses.stored.write", 2),  # learned from; its ratios are not added
            Hit("rlhf.store.Store.prune", 1),  # logged, not saved
            in_step(program, 2, LAST),
        ],
    }
    return [
        *before.get(program, [learning]),
        # In a checkpoint's thread: the model's files are there, others are not; all but the manifest; all, but the folder's
        # name is not final (step 6); that as well, but an older checkpoint is not deleted.
        Hit("llamatrain.saving.Files.write", 2, LAST),
        Hit("llamatrain.manifest.write", 1),
        Hit("llamatrain.atomic.publish", 2),
        Hit("llamatrain.manifest.keep_newest", 1),
        Hit("llamatrain.run.Run.finish"),  # the last checkpoint is there, `final` does not point to it
    ]


def stops(program: str) -> list[tuple[Hit, int]]:
    """Signals that ask to stop, and the step that is on disk then; the last one comes in the last step."""
    if program == "ppo":
        return stops_of_ppo()
    sampling = [(Hit(TOKEN, 3, LAST, "SIGTERM"), 0)] if program == "rejection_sampling" else []
    return [
        *sampling,
        (in_step(program, 1, 0, "SIGTERM"), 1),
        (in_step(program, 2, LAST, "SIGUSR1"), 3),
        (in_step(program, 1, LAST, "SIGINT"), 4),
        (in_step(program, 2, 0, "SIGTERM"), STEPS),
    ]


def stops_of_ppo() -> list[tuple[Hit, int]]:
    """Signals in every phase of an iteration, whose start is on disk (iterations 0, 2 and 4) or is not."""
    return [
        (Hit(TOKEN, 30, LAST, "SIGTERM"), 0),  # act: chunks of an iteration are there, others not
        (Hit("rlhf.experience.pack_rollouts", 2, 0, "SIGUSR1"), 0),  # judge: between two micro-batches
        (in_step("ppo", 1, LAST, "SIGINT"), 0),  # learn: the first mini-batch is dropped
        (Hit(TOKEN, 30, 0, "SIGTERM"), 1),  # act of iteration 1, for 0 had its rollouts
        (in_step("ppo", 3, 0, "SIGTERM"), 4),  # learn of iteration 3, which ends
        (Hit("rlhf.kept.Kept.judged", 2, LAST, "SIGTERM"), 5),  # judge of iteration 5
        (in_step("ppo", 1, LAST, "SIGUSR1"), 5),  # learn of iteration 5
        (Hit("llamatrain.run.Run.finish", 1, 0, "SIGTERM"), STEPS),
    ]


def plan(program: str, what: str) -> list[list[Hit]]:
    """Return what happens to a program, start by start."""
    if what == "stopped":  # and as rank 0 leaves, for launchers end the others when one has left
        return [[hit, Hit("llamatrain.run.Run._close", 1, 0, "SIGTERM")] for hit, _ in stops(program)]
    return [*([hit] for hit in kills(program) if what == "killed"), []]


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, repository: Path
) -> dict[Plan, tuple[Path, list[Result]]]:
    """Every program on one rank and two: uninterrupted, killed and stopped; (run folder, the result of each start)."""
    folder = tmp_path_factory.mktemp("runs")
    programs = make_programs(folder, tokenizer)
    plans = [(p, ranks, what) for p in PROGRAMS for ranks in (2, 1) for what in ("whole", "killed", "stopped")]
    chains = []
    for program, ranks, what in plans:
        own = str(folder / what / f"{program}{ranks}")
        starts = [[replace(hit, rank=hit.rank % ranks) for hit in hits] for hits in plan(program, what)]
        chains.append([Job(program, own, programs[program], ranks, hits) for hits in starts])
    results = run(chains, repository)
    return {plan: (Path(c[0].folder), r) for plan, c, r in zip(plans, chains, results, strict=True)}


def same_end(folder: Path, whole: Path) -> None:
    """Hold a run against the uninterrupted one: weights, what else it wrote, and metrics but for their times."""
    for file in FILES:
        assert (folder / file).exists() == (whole / file).exists(), file
        if (whole / file).exists():
            assert (folder / file).read_bytes() == (whole / file).read_bytes(), file
    assert metrics(folder) == metrics(whole)
    assert [row["step"] for row in metrics(folder)] == list(range(1, STEPS + 1))
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["step"]) == ("done", STEPS)
    assert not list(folder.rglob("*.tmp*"))


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "time" and "second" not in k} for row in rows]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("program", PROGRAMS)
def test_killed(program: str, ranks: int, runs: dict[Plan, tuple[Path, list[Result]]]) -> None:
    whole, (done,) = runs[program, ranks, "whole"]
    assert done.codes == [0] * ranks, done.output
    folder, results = runs[program, ranks, "killed"]
    for hit, killed in zip(kills(program), results, strict=False):
        assert killed.codes[hit.rank % ranks] == -9, (hit, killed)
        assert killed.status["state"] in ("running", "failed")  # failed: rank 0 saw the other one go
    assert results[-1].codes == [0] * ranks, results[-1].output
    same_end(folder, whole)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("program", PROGRAMS)
def test_stopped(program: str, ranks: int, runs: dict[Plan, tuple[Path, list[Result]]]) -> None:
    folder, results = runs[program, ranks, "stopped"]
    for (hit, step), stopped in zip(stops(program)[:-1], results, strict=False):
        assert stopped.codes == [75] * ranks, (hit, stopped)
        assert (stopped.status["state"], stopped.status["step"]) == ("stopped", step)
        assert f"{hit.signal} at step {step}" in stopped.status["reason"]
        assert stopped.output.count(f"stopped: {stopped.status['reason']}\n") == 1
        assert "Traceback" not in stopped.output
    assert results[-1].codes == [0] * ranks, results[-1].output
    same_end(folder, runs[program, ranks, "whole"][0])


def test_torchrun_passes_a_signal_on(tmp_path: Path, tokenizer: Tokenizer, repository: Path) -> None:
    arguments = [*make_programs(tmp_path, tokenizer)["sft"], f"run.dir={tmp_path}", "run.name=job", "epochs=1000"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sft"]
    started = subprocess.Popen([sys.executable, *launcher, *arguments], cwd=repository, stderr=subprocess.PIPE)
    metrics = tmp_path / "job" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text()) and started.poll() is None:
        time.sleep(0.1)
    started.send_signal(signal.SIGTERM)
    _, errors = started.communicate()
    status = json.loads((tmp_path / "job" / "status.json").read_text())
    assert status["state"] == "stopped", errors.decode()
    assert status["reason"].startswith(f"SIGTERM at step {status['step']}")
    assert (tmp_path / "job" / "checkpoints" / f"step_{status['step']:08d}").is_dir()
    assert started.returncode != 0
