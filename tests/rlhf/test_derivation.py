"""Every figure of an iteration comes out again from the checkpoint before it and the store."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llamatrain.config.compose import compose
from llamatrain.errors import UserError
from llamatrain.responses import stored
from rlhf.config import ExperienceConfig
from rlhf.derivation import derive, differences, logged

from .small import ppo

# All that enters a figure: several chunks, an adaptive coefficient, several epochs, a critic that warms up, held-out prompts.
MORE = [
    "chunk_responses=2",
    "kl.target=0.5",
    "kl.horizon=20",
    "epochs=2",
    "critic_warmup=2",
    "run.eval_every=3",
    "run.keep_best=true",
]


def exact(folder: Path, step: int) -> int:
    """Derive a step; return the step of the checkpoint that it starts from."""
    start, found = differences(folder, step)
    assert [str(one) for one in found if one.logged != one.derived] == []
    names = {one.name for one in found}
    assert {"ppo/score_combined", "ppo/approx_kl", "ppo/held", "experience/values"} <= names or step <= 2
    assert len(names) > 50 or step == 0
    return start


def test_a_few_steps(world: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ppo(world, tmp_path, "ppo", "iterations=5", "run.save_every=2", "run.keep=2", *MORE[:5])
    assert exact(folder, 1) == 0  # held, the critic's head rescaled
    assert exact(folder, 4) == 0  # checkpoint 2 is gone: from the start, as all is stored
    assert exact(folder, 5) == 4
    config = folder / "config.yaml"  # as a version wrote it that had no such key
    config.write_text("".join(x for x in config.read_text().splitlines(True) if not x.startswith("old_logprobs")))
    assert exact(folder, 5) == 4
    derive(ExperienceConfig(str(folder), 5, 0.0))
    assert capsys.readouterr().out.startswith(f"step 5 of {folder}, from the checkpoint of step 4: ")

    # A figure that was logged otherwise is named, and by how much it is off.
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["ppo/entropy"] *= 1.01
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit) as ended:
        derive(ExperienceConfig(str(folder), 5, 1e-3))
    assert ended.value.code == 1
    assert "  ppo/entropy " in capsys.readouterr().out
    derive(ExperienceConfig(str(folder), 5, 0.1))


def test_steps_by_the_samplers_logprobs(world: dict[str, str], tmp_path: Path) -> None:
    folder = ppo(world, tmp_path, "ppo", "iterations=4", "run.save_every=2", "old_logprobs=sampler", *MORE[:5])
    assert exact(folder, 1) == 0
    assert "ppo/sampler_mismatch" not in figures(folder, 1)  # the policy waits for its critic
    assert exact(folder, 4) == 2
    assert "ppo/sampler_mismatch" in figures(folder, 4)


def test_held_out_scores_by_models_of_their_own(world: dict[str, str], tmp_path: Path, prompts_eval: str) -> None:
    apart = [prompts_eval, f"eval_helpfulness={world['safety']}", "run.eval_every=2"]
    folder = ppo(world, tmp_path, "ppo", "iterations=5", "run.save_every=3", *apart)
    assert exact(folder, 0) == 0
    assert [name for name in figures(folder, 0) if not name.startswith("eval/")] == []
    assert [exact(folder, step) for step in (2, 4, 5)] == [0, 3, 3]  # the fifth counts what the fourth was
    assert {"eval/score_combined", "ppo/since_best", "ppo/prompts", "ppo/skipped"} <= figures(folder, 5)
    assert exact(folder, 3) == 2 and "ppo/since_best" not in figures(folder, 3)


def figures(folder: Path, step: int) -> set[str]:
    """Return the names of what was logged of a step."""
    return set(logged(folder, step)[step])


@pytest.mark.slow
def test_twenty_random_steps_of_a_run_and_of_a_resumed_one(
    world: dict[str, str], tmp_path: Path, prompts_eval: str
) -> None:
    more = ["iterations=24", "run.save_every=5", "run.keep=2", *MORE, prompts_eval]
    folder = ppo(world, tmp_path, "ppo", *more)
    chosen = random.Random(0).sample(range(25), 20)
    for step in chosen:
        exact(folder, step)
    # As if killed in iteration 24: the rest is learned from the store; then as if that of 21 had been lost.
    for lost in ((), (21, 23)):
        for path in (folder / "checkpoints").glob("step_*"):
            if int(path.name[5:]) > 20:
                shutil.rmtree(path)
        (folder / "final").unlink()
        for step in lost:
            stored.path_of(folder, step).unlink()
        ppo(world, tmp_path, "ppo", *more)
        for step in chosen if lost else (21, 24):
            exact(folder, step)


@pytest.mark.slow
def test_twenty_random_steps_of_the_demo(repository: Path) -> None:
    """Of a finished `make demo`, or of another one in LLAMATRAIN_DEMO, on as many ranks as it had; its paths are of its checkout."""
    demo = Path(os.environ.get("LLAMATRAIN_DEMO", repository / "runs" / "demo"))
    if not (demo / "ppo" / "experience").is_dir():
        pytest.skip(f"{demo} is absent: make demo, or set LLAMATRAIN_DEMO to the folder of a finished one")
    ranks = json.loads((demo / "ppo" / "status.json").read_text())["ranks"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "-m", "rlhf.derivation"]
    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    for step in random.Random(0).sample(range(1, 31), 20):
        command = [sys.executable, *launcher, f"folder={demo / 'ppo'}", f"step={step}", "tolerance=0"]
        done = subprocess.run(command, cwd=demo.parents[1], env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
        assert "figures come out to the last bit" in done.stdout


def test_a_rolled_back_run(world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkpoint before the rollback over iterations at both learning rates."""
    from .test_guards import blown_up_once

    more = ["iterations=5", "run.save_every=2", "run.keep=0", "guards.action=rollback"]
    with monkeypatch.context() as patch:
        patch.setattr("rlhf.ppo.learn", blown_up_once(at=2))
        folder = ppo(world, tmp_path, "ppo", *more)
    assert exact(folder, 5) == 4
    shutil.rmtree(folder / "checkpoints" / "step_00000004")
    shutil.rmtree(folder / "checkpoints" / "step_00000002")
    assert exact(folder, 4) == 0


def test_mistakes_are_named(world: dict[str, str], tmp_path: Path) -> None:
    folder = ppo(world, tmp_path, "ppo", "iterations=3", "run.save_every=2")

    def refused(step: int, *, at: Path = folder) -> str:
        with pytest.raises(UserError) as found:
            derive(compose("experience", ExperienceConfig, [f"folder={at}", f"step={step}"]))
        return str(found.value)

    assert refused(2, at=tmp_path) == f"folder={tmp_path}: need the folder of a run of ppo with experience/ in it"
    assert refused(0) == f"step=0: need a step that {folder / 'metrics.jsonl'} has: 1 to 3"  # nothing was held out
    assert refused(9) == f"step=9: need a step that {folder / 'metrics.jsonl'} has: 1 to 3"
    stored.path_of(folder, 1).unlink()
    assert refused(2) == "step=2: not all iterations from a kept checkpoint on are still stored; need one of 3"
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("kl_coef: 0.01", "kl_coef: 0.02"))
    assert "step_00000003.safetensors was made with other settings than " in refused(3)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "ranks": 2}))
    assert refused(3).endswith("on another number of ranks than 1: the run had 2, need ranks=2")
