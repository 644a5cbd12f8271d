"""PPO on the tiny world: a few iterations of eight responses."""

from __future__ import annotations

from pathlib import Path

import torch

from llamatrain import checkpoint, hf_folder
from llamatrain.config.compose import compose
from rlhf.experience import Models
from rlhf.ppo import load_models, parents_of, train
from rlhf.ppo_config import PPOConfig

from .worlds import overrides, read_jsonl

SMALL = [
    "rollout_prompts=8",
    "mini_batch_prompts=4",
    "micro_batch_size=2",
    "generation_batch_size=8",
    "sampling.max_new_tokens=8",
    "optim.lr=1e-3",
    "critic_optim.lr=1e-3",
    "samples_every=1",
    "gate.unfinished_logit=100",  # an untrained model hardly ever finishes
]


def composed(world: dict[str, str], folder: Path, name: str, *more: str) -> PPOConfig:
    return compose("ppo", PPOConfig, overrides(world, folder, name, *SMALL, *more))


def ppo(world: dict[str, str], folder: Path, name: str, *more: str) -> Path:
    train(composed(world, folder, name, *more))
    return folder / name


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(hf_folder.load_weights((folder / "final").resolve()))


def measures(folder: Path) -> list[dict[str, float]]:
    """Return the metrics without what time changes."""
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in rows]


def five_models(cfg: PPOConfig, world: dict[str, str]) -> Models:
    """Return the models that PPO of these settings starts with."""
    own = {key: checkpoint.resolve(world[key]) for key in ("checkpoint", "helpfulness", "safety")}
    return load_models(cfg, parents_of(cfg) | own, resumes=False, whole=True)
