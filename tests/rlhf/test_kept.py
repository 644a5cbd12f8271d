"""What PPO keeps of an iteration comes back bit by bit, in the prompts' order, for that iteration alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llamatrain import distributed
from llamatrain.config.compose import compose
from llamatrain.run import Run
from rlhf.experience import Judged
from rlhf.kept import JudgedPart, Kept, forget, judged_of, judged_part, rollout_of, rollout_part
from rlhf.ppo_config import PPOConfig

from .worlds import overrides, random_rollouts


@pytest.fixture
def run(world: dict[str, str], tmp_path: Path) -> Run:
    cfg = compose("ppo", PPOConfig, overrides(world, tmp_path, "ppo"))
    return Run(cfg.run, "ppo", cfg, data={})


def test_it_comes_back_bit_by_bit(run: Run) -> None:
    rollouts = [replace(r, sampler_entropies=[1 / 3] * len(r.tokens)) for r in random_rollouts(6)]
    judged = [Judged(r, 0.1 * i, -1 / 3, *torch.randn(4, len(r.tokens)).unbind()) for i, r in enumerate(rollouts)]
    for _ in range(2):  # the second time from the disk alone
        kept = Kept(run, {}, iteration=3, count=6, chunk_responses=4)
        chunks, verdicts = kept.rollouts(), kept.judged()
        assert (len(chunks), chunks.size) == (2, 3)
        assert kept.order == list(range(6))  # of one rank
        chunks.make(lambda items: [rollout_part(rollouts[i]) for i in items])
        verdicts.make(lambda items: [judged_part(judged[i]) for i in items])
        again = [rollout_of(r.prompt, part) for r, part in zip(rollouts, kept.in_order(chunks), strict=True)]
        assert again == rollouts
        for old, part in zip(judged, kept.in_order(verdicts), strict=True):
            new = judged_of(old.rollout, part)
            assert (new.helpfulness, new.safety) == (old.helpfulness, old.safety)
            for name in ("logprobs", "reference", "values", "entropy"):
                assert torch.equal(getattr(new, name), getattr(old, name))
    forget(run)
    assert Kept(run, {}, 3, 6, 4).rollouts().missing() == 6


def test_judging_goes_on_from_the_chunk_at_which_it_was_stopped(run: Run) -> None:
    judged = [Judged(r, 0.1, 0.2, *torch.randn(4, len(r.tokens)).unbind()) for r in random_rollouts(6)]

    def stopped(items: range) -> list[JudgedPart]:
        run._stop_request.signal = "SIGTERM"
        return [judged_part(judged[i]) for i in items]

    assert not Kept(run, {}, 0, 6, 2).judged().make(stopped)
    assert Kept(run, {}, 0, 6, 2).judged().missing() == 4


def test_only_the_iteration_at_the_start_is_taken_over(run: Run) -> None:
    rollouts = random_rollouts(4)
    for iteration in (2, 3):
        kept = Kept(run, {"lr": 1}, iteration, 4, 4)
        kept.rollouts().make(lambda items: [rollout_part(rollouts[i]) for i in items])
    forget(run, but=3)
    missing = [Kept(run, {"lr": lr}, i, 4, 4).rollouts().missing() for lr, i in ((1, 2), (1, 3), (2, 3))]
    assert missing == [4, 0, 4]


def test_the_order_is_that_of_the_ranks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    assert Kept(run, {}, 0, 6, 9).order == [0, 2, 4, 1, 3, 5]
