"""PPO's five models, small or large, and one update of them from rollouts that are given."""

from __future__ import annotations

import random

import torch
from parts import device, optim, shape, zero
from torch import Tensor, nn

from llamatrain.config.compose import compose
from llamatrain.engine.learning import Engine
from llamatrain.engine.models import build
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import Rollout
from llamatrain.settings import ZeroConfig
from rlhf.experience import Models, credit, judge
from rlhf.learning import learn
from rlhf.measures import batch_metrics
from rlhf.ppo_config import PPOConfig

GIVEN = ["checkpoint=x", "helpfulness=x", "safety=x", "prompts=[x]", "run.name=x", "gate.unfinished_logit=100"]


def settings(count: int, *overrides: str) -> PPOConfig:
    """Return PPO's settings for batches of `count` rollouts, learned from in one update."""
    given = [f"rollout_prompts={count}", f"mini_batch_prompts={count}", *overrides]
    return compose("ppo", PPOConfig, [*GIVEN, *given])


def models(config: ModelConfig, sharding: ZeroConfig, dtype: torch.dtype) -> Models:
    """Return five models of one shape, all with weights of their own: two that learn, three that are read."""

    def read(model: nn.Module) -> nn.Module:
        return model.to(device(), dtype).requires_grad_(False).eval()

    def learns(seed: int, scalar: bool) -> Engine:
        kind = ScalarModel if scalar else Transformer
        return Engine(build(lambda: kind(config, seed), sharding), optim(1e-4), sharding, 10)

    return Models(
        policy=learns(1, scalar=False),
        critic=learns(2, scalar=True),
        reference=read(build(lambda: Transformer(config, 4), sharding)),
        helpfulness=read(build(lambda: ScalarModel(config, 2), sharding)),
        safety=read(build(lambda: ScalarModel(config, 3), sharding)),
    )


def update(dtype: str, std: float) -> dict[str, Tensor]:
    """Return what one update of small models measures and how it changes the weights."""
    stage = 1 if dtype == "bfloat16" else 0
    five = models(shape(init_std=std), zero(stage, dtype), getattr(torch, dtype))
    cfg = settings(16, "micro_batch_size=4")
    rollouts = random_rollouts(16, 512)
    before = {name: weight.detach().float().cpu() for name, weight in five.policy.state.parameters_by_name()}
    batch = credit(cfg, judge(cfg, five, rollouts, 256), cfg.kl_coef)
    learned = learn(cfg, five, batch, 0, 256, hold=False)
    metrics = {**batch_metrics(cfg, batch), **learned}
    wanted = ("kl_per_token", "entropy", "policy_loss", "value_loss", "grad_norm", "critic_grad_norm")
    found = {f"ppo.{name}": torch.tensor(metrics[f"ppo/{name}"]) for name in wanted}
    found["ppo.helpfulness"] = torch.tensor([j.helpfulness for j in batch.judged])
    found["ppo.advantages"] = batch.credit.advantages[batch.mask].float()
    # AdamW's first step is the gradient's sign: where it is all but 0, rounding decides. So the length of the change.
    after = {name: weight.detach().float().cpu() for name, weight in five.policy.state.parameters_by_name()}
    changes = [(after[name] - before[name]).norm() for name in before]
    return {**found, "ppo.change of the weights": torch.stack(changes)}


def random_rollouts(
    count: int, vocabulary: int, prompt: int = 12, answer: int = 20, even: bool = False
) -> list[Rollout]:
    """Return rollouts of random tokens, of uneven lengths up to the given ones or `even`."""
    chance = random.Random(0)
    made = []
    for i in range(count):
        sizes = (prompt, answer) if even else (chance.randint(2, prompt), chance.randint(1, answer))
        asked, given = ([chance.randrange(3, vocabulary) for _ in range(size)] for size in sizes)
        about = Prompt(f"p{i}", [{"role": "user", "content": f"{i}"}], i % 3 == 0, "random", asked)
        made.append(Rollout(about, given, i % 2 == 1, [-1.0] * len(given), is_answer=i % 2 == 1))
    return made
