"""One update's gradients against a plain loop, whatever the settings and however the work is divided."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamatrain.data.rows import write_rows
from llamatrain.losses import language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from rlhf.experience import Batch, Models, credit, judge
from rlhf.learning import Extremes, accumulate, learn, mini_batches
from rlhf.ppo_config import PPOConfig
from rlhf.replay import Replay
from tests.corpora import write_corpus

from . import plain
from .small import composed, five_models
from .worlds import random_rollouts, save_checkpoint

COUNT = 5  # responses: no multiple of a micro-batch
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


def moved(cfg: PPOConfig, world: dict[str, str], tmp_path: Path, shape: ModelConfig, tokenizer: Tokenizer) -> Models:
    """Return models whose policy has left its reference, and a batch's own log-probabilities behind."""
    other = save_checkpoint(tmp_path / "reference", Transformer(shape, seed=9), tokenizer)
    models = five_models(cfg, world)
    models.reference = five_models(cfg, {**world, "checkpoint": str(other)}).reference
    return models


def a_batch(cfg: PPOConfig, models: Models) -> Batch:
    """Return a judged batch of random responses, as an earlier policy and critic would have left it."""
    rollouts = random_rollouts(COUNT)
    batch = credit(cfg, judge(cfg, models, rollouts, 128), cfg.kl_coef)
    generator = torch.Generator().manual_seed(1)
    for values in (batch.logprobs, batch.values):
        values += 0.2 * torch.randn(values.shape, generator=generator) * batch.mask
    return batch


def accumulated(cfg: PPOConfig, models: Models, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the gradients that `accumulate` leaves in policy and critic."""
    tokens = int(batch.mask.sum())
    accumulate(cfg, models, batch, list(range(COUNT)), tokens, 128, hold=False, extremes=Extremes())
    found = []
    for engine in (models.policy, models.critic):
        found.append({name: weight.grad.clone() for name, weight in engine.module.named_parameters()})
        engine.module.zero_grad()
    return found[0], found[1]


@pytest.mark.parametrize("micro", [1, 2, 5])
@pytest.mark.parametrize("kl", ["kl.place=reward", "kl.place=loss kl.estimator=k2", "kl.place=loss kl.estimator=k3"])
def test_gradients_are_those_of_a_plain_loop(
    kl: str, micro: int, world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    settings = [*kl.split(), f"micro_batch_size={micro}", "sampling.temperature=0.7", "kl_coef=0.3"]
    cfg = composed(world, tmp_path, "ppo", *settings)
    models = moved(cfg, world, tmp_path, model_config, tokenizer)
    batch = a_batch(cfg, models)
    expected = plain.gradients(cfg, models, batch, list(range(COUNT)))
    for found, wanted in zip(accumulated(cfg, models, batch), expected, strict=True):
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, **TOLERANCE)


def test_in_the_loss_the_penalty_is_not_in_the_reward_as_well(
    world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    cfg = composed(world, tmp_path, "ppo", "kl.place=loss", "kl.estimator=k2", "kl_coef=0.3")
    batch = a_batch(cfg, moved(cfg, world, tmp_path, model_config, tokenizer))
    torch.testing.assert_close(batch.credit.rewards.sum(1), batch.credit.whitened)
    inside = composed(world, tmp_path, "ppo", "kl.place=reward", "kl.estimator=k3", "kl_coef=0.3")
    rewards = credit(inside, batch.judged, 0.3).credit.rewards.sum(1)
    assert (rewards < batch.credit.whitened).all()  # k3 is never below 0


def test_a_critic_can_start_from_the_policy(world: dict[str, str], tmp_path: Path) -> None:
    models = five_models(composed(world, tmp_path, "ppo", "critic=policy"), world)
    policy, critic = (dict(engine.module.named_parameters()) for engine in (models.policy, models.critic))
    assert torch.equal(critic["model.embed_tokens.weight"], policy["model.embed_tokens.weight"])
    assert critic["score.weight"].abs().sum() > 0
    other = dict(five_models(composed(world, tmp_path, "ppo"), world).critic.module.named_parameters())
    helpful = dict(models.helpfulness.named_parameters())
    assert all(torch.equal(other[name], helpful[name]) for name in other)


def test_replayed_text_is_a_term_of_the_policys_loss(
    world: dict[str, str], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    rows = [{"text": "The red fox lives in the forest near the river. " * 30, "source": "test"}]
    write_rows(tmp_path / "documents.jsonl", rows)
    write_corpus(tmp_path / "corpus" / "train", [str(tmp_path / "documents.jsonl")], tokenizer)
    cfg = composed(world, tmp_path, "ppo", "replay_sequences=3", "replay_coef=0.5")
    models, replay = five_models(cfg, world), Replay(cfg, str(tmp_path / "corpus"), tokenizer, context=64)
    loss = replay.accumulate(models.policy)
    sums, weight = zip(
        *(
            (language_model_loss(models.policy.module, batch)[0], float(batch["weight"]))
            for batch in replay.batches.batch_at(0)
        ),
        strict=True,
    )
    mean = sum(sums, torch.zeros(())) / sum(weight)
    assert loss == pytest.approx(float(mean.detach()), abs=1e-5)
    for name, gradient in plain.of(0.5 * mean, models.policy.module).items():
        found = dict(models.policy.module.named_parameters())[name].grad
        torch.testing.assert_close(found, gradient, **TOLERANCE)
    models.policy.module.zero_grad()

    batch = credit(cfg, judge(cfg, models, random_rollouts(8), 128), cfg.kl_coef)
    learned = learn(cfg, models, batch, 0, 128, hold=False, replay=replay)
    assert learned["ppo/replay_loss"] == pytest.approx(loss, abs=0.5)
    assert "ppo/replay_loss" not in learn(cfg, models, batch, 0, 128, hold=True, replay=replay)


def test_every_response_is_learned_from_once_an_epoch(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path, "ppo", "rollout_prompts=12", "mini_batch_prompts=4", "epochs=3")
    batches = list(mini_batches(cfg, 5))
    assert len(batches) == cfg.updates_per_iteration == 9
    for epoch in range(3):
        numbers = [number for batch in batches[3 * epoch : 3 * epoch + 3] for number in batch]
        assert sorted(numbers) == list(range(12))


def test_extremes_are_those_of_all_tokens() -> None:
    extremes = Extremes()
    assert extremes.metrics() == {"ppo/ratio_min": 1.0, "ppo/ratio_max": 1.0}
    for part in (torch.tensor([0.1, -0.3]), torch.empty(0), torch.tensor([0.2])):
        extremes.see(part)
    found = extremes.metrics()
    assert (found["ppo/ratio_min"], found["ppo/ratio_max"]) == pytest.approx((0.740818, 1.221403), abs=1e-5)


def test_logits_of_one_model_are_held_at_a_time(world: dict[str, str], tmp_path: Path) -> None:
    """Of (n, V) numbers a second set would be the largest thing that judging holds, and one too many for what comes after it."""
    cfg = composed(world, tmp_path, "ppo", "micro_batch_size=1")
    models, made = five_models(cfg, world), list[weakref.ref[Tensor]]()

    def watched(model: Any) -> Callable[..., Tensor]:
        def call(**inputs: Tensor) -> Tensor:
            assert [one for one in made if one() is not None] == []
            found: Tensor = model(**inputs)
            if found.dim() == 2:  # logits; of scores there is one number a token
                made.append(weakref.ref(found))
            return found

        return call

    names = ("policy", "critic", "reference", "helpfulness", "safety")
    judge(cfg, replace(models, **{name: watched(getattr(models, name)) for name in names}), random_rollouts(COUNT), 128)
    assert len(made) >= 2 * 2  # policy and reference, of two responses
