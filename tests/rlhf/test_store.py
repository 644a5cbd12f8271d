"""The store of experience: what is read is what was written, bit by bit; what is kept; and that a restart learns from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llamatrain.errors import UserError
from llamatrain.responses import stored
from llamatrain.run import Run
from rlhf import kept
from rlhf.experience import Judged, credit
from rlhf.ppo_config import PPOConfig
from rlhf.store import Store

from .small import composed, measures, ppo, weights
from .worlds import random_rollouts

STEP = "step_00000003.safetensors"


@pytest.fixture
def cfg(world: dict[str, str], tmp_path: Path) -> PPOConfig:
    return composed(world, tmp_path, "ppo", "experience_kept=2", "experience_every=4")


@pytest.fixture
def run(cfg: PPOConfig) -> Run:
    return Run(cfg.run, "ppo", cfg, data={})


def judged_at_random(count: int = 8) -> list[Judged]:
    rollouts = random_rollouts(count)
    return [Judged(r, 0.1 * i, -1 / 3, *torch.randn(4, len(r.tokens)).unbind()) for i, r in enumerate(rollouts)]


def as_float32(judged: list[Judged]) -> list[tuple[Any, ...]]:
    """Return judged rollouts as plain values, scores as the models give them."""
    found = []
    for one in judged:
        tensors = (getattr(one, name).tolist() for name in ("logprobs", "reference", "values", "entropy"))
        found.append((one.rollout, float(np.float32(one.helpfulness)), float(np.float32(one.safety)), *tensors))
    return found


def test_it_comes_back_bit_by_bit(cfg: PPOConfig, run: Run) -> None:
    judged = judged_at_random()
    wanted = [(one.rollout.prompt, i // 3) for i, one in enumerate(judged)]
    fitted = [
        Judged(j.rollout, j.helpfulness, j.safety, j.logprobs, j.reference, 2 * j.values, j.entropy) for j in judged
    ]
    for batch in (credit(cfg, judged, 0.1), credit(cfg, fitted, 0.1)):  # the second one's critic was rescaled
        store = Store(cfg, run, {"lr": 1})
        store.keep(3, judged, batch, wanted, hold=False, rollbacks=0)
        found = Store(cfg, run, {"lr": 1}).find(3, wanted, rollbacks=0)
        assert found is not None
        assert as_float32(found) == as_float32(judged)
        batch.log_ratios = torch.randn(batch.mask.shape)
        store.add_ratios(batch)
        file = stored.read(stored.path_of(run.folder, 3))
        dense = {"values": batch.values, "log_ratios": batch.log_ratios, "rewards": batch.credit.rewards}
        dense |= {"advantages": batch.credit.advantages, "returns": batch.credit.returns}
        for name, values in dense.items():
            for row, mask, own in zip(values, batch.mask, file.each(name), strict=True):
                assert torch.equal(row[mask], torch.from_numpy(own))
        tokens = [token for one in judged for token in one.rollout.prompt.tokens]
        assert np.concatenate(file.each("prompt_tokens")).tolist() == tokens
        assert file.facts["prompts"] == [[prompt.id, number] for prompt, number in wanted]


@pytest.mark.parametrize("what", ["settings", "rollbacks", "prompts", "damaged", "cut"])
def test_what_is_not_this_runs_is_made_again_and_what_follows_it_deleted(
    what: str, cfg: PPOConfig, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = judged_at_random()
    wanted = [(one.rollout.prompt, 0) for one in judged]
    store = Store(cfg, run, {"lr": 1})
    for step in (2, 3, 4, 5):
        store.keep(step, judged, credit(cfg, judged, 0.1), wanted, hold=False, rollbacks=0)
    path = stored.path_of(run.folder, 3)
    if what == "damaged":
        path.write_bytes(b"nothing")
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    other = Store(cfg, run, {"lr": 2 if what == "settings" else 1})
    asked = [(prompt, 1) for prompt, _ in wanted] if what == "prompts" else wanted
    assert other.find(3, asked, rollbacks=int(what == "rollbacks")) is None
    assert stored.steps(run.folder) == [2]
    said = capsys.readouterr().err
    assert (f"{path} is damaged: " in said and "the iteration is sampled again" in said) is (what in ("damaged", "cut"))


def test_bounds(cfg: PPOConfig, run: Run) -> None:
    judged = judged_at_random(2)
    store, batch = Store(cfg, run, {}), credit(cfg, judged, 0.1)
    wanted = [(one.rollout.prompt, 0) for one in judged]
    kept_steps = []
    for step in range(1, 13):
        store.keep(step, judged, batch, wanted, hold=True, rollbacks=0)
        if step in (6, 10):  # the older checkpoint is deleted once the newer one is there
            shutil.rmtree(run.checkpoints / "step_00000006", ignore_errors=True)
            (run.checkpoints / f"step_{step:08d}").mkdir(parents=True)
        store.prune(step)
        kept_steps.append(stored.steps(run.folder))
    assert kept_steps[4] == [1, 2, 3, 4, 5]  # without a checkpoint all is since the start
    assert kept_steps[5] == [4, 5, 6]  # every fourth, and the newest two
    assert kept_steps[8] == [4, 7, 8, 9]  # all since the checkpoint
    assert kept_steps[11] == [4, 8, 11, 12]


@pytest.mark.parametrize("old", ["policy", "sampler"])
def test_a_restart_learns_from_what_is_stored(
    old: str, world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["iterations=5", "run.save_every=2", "run.keep=0", "epochs=2", f"old_logprobs={old}"]
    whole, folder = ppo(world, tmp_path, "whole", *more), tmp_path / "ppo"
    sampled: list[int] = []
    former = kept.sample_rollouts

    def counted(*given: Any, **named: Any) -> Any:
        sampled.append(len(given[1]))
        return former(*given, **named)

    monkeypatch.setattr(kept, "sample_rollouts", counted)
    ppo(world, tmp_path, "ppo", *more)
    assert sampled == [8] * 5
    assert not list((folder / "chunks").iterdir())  # what is stored is not kept twice

    def again(*other: str) -> None:
        """As if killed in iteration 5, with the checkpoint of 4 half written."""
        for left in ("checkpoints/step_00000005", "checkpoints/step_00000004"):
            shutil.rmtree(folder / left)
        (folder / "final").unlink()
        sampled.clear()
        ppo(world, tmp_path, "ppo", *more, *other)

    again()
    assert sampled == []
    assert measures(folder) == measures(whole)
    assert all(torch.equal(a, b) for a, b in zip(weights(folder).values(), weights(whole).values(), strict=True))
    (folder / "experience" / "step_00000004.safetensors").write_bytes(b"")
    again()
    assert sampled == [8, 8]  # 4, and 5 after it
    assert measures(folder) == measures(whole)
    again("optim.lr=2e-3")
    assert sampled == [8, 8, 8]
    assert measures(folder)[2:] != measures(whole)[2:]


def test_ratios_are_those_of_the_metrics(world: dict[str, str], tmp_path: Path) -> None:
    """With one epoch every token has one ratio, and the clipped share is theirs."""
    folder = ppo(world, tmp_path, "ppo", "iterations=2", "critic_warmup=1", "optim.lr=0.02", "guards.ratio=null")
    held, learned = (stored.read(stored.path_of(folder, step)) for step in (1, 2))
    assert held.facts["held"] and "log_ratios" not in held.arrays and "judged_values" in held.arrays
    row, ratios = measures(folder)[1], np.exp(learned.arrays["log_ratios"])
    assert (ratios.min(), ratios.max()) == pytest.approx((row["ppo/ratio_min"], row["ppo/ratio_max"]), rel=1e-6)
    assert float((abs(ratios - 1) > learned.facts["clip"]).mean()) == pytest.approx(row["ppo/clip_fraction"])
    assert 0 < row["ppo/clip_fraction"] < 0.5  # the second mini-batch's


def test_bytes_of_a_token(cfg: PPOConfig, run: Run) -> None:
    """What docs/ppo.md says: 40 bytes per response token, 4 per prompt token, and what a response has."""
    sizes = []
    for longer in (0, 100):
        judged = judged_at_random()
        for one in judged:
            one.rollout.tokens.extend([5] * longer)
            one.rollout.sampler_logprobs.extend([0.0] * longer)
            for name in ("logprobs", "reference", "values", "entropy"):
                setattr(one, name, torch.randn(len(one.rollout.tokens)))
        store, batch = Store(cfg, run, {}), credit(cfg, judged, 0.1)
        store.keep(1, judged, batch, [(one.rollout.prompt, 0) for one in judged], hold=False, rollbacks=0)
        store.add_ratios(batch)
        sizes.append(stored.path_of(run.folder, 1).stat().st_size)
    assert (sizes[1] - sizes[0]) / (8 * 100) == pytest.approx(40, abs=0.1)


def test_a_stored_iteration_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = stored.path_of(tmp_path, 1)
    arrays = {"lengths": np.array([2]), "tokens": np.array([1, 2]), "values": np.array([1.0])}
    stored.write(path, stored.Stored({"prompts": [["a", 0]]}, arrays))
    with pytest.raises(UserError, match="is damaged: its arrays differ in length"):
        stored.read(path)
