"""The programs of rlhf in one launch, on as many ranks as there are; arguments: world (JSON), folder, ZeRO stages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from llamatrain.config.compose import compose
from rlhf.compare import compare
from rlhf.config import CompareConfig, RejectionSamplingConfig
from rlhf.ppo import train as ppo
from rlhf.ppo_config import PPOConfig
from rlhf.rejection_sampling import train as rejection_sampling

from .worlds import overrides

PPO = [
    "rollout_prompts=8",
    "mini_batch_prompts=4",
    "micro_batch_size=2",
    "sampling.max_new_tokens=20",
    "iterations=2",
    "epochs=2",
]
# Two ranks cannot share the rollouts equally, and of each mini-batch the second has none.
UNEVEN = ["rollout_prompts=3", "mini_batch_prompts=1", "epochs=1"]
RATES = ["optim.lr=1e-3", "critic_optim.lr=1e-3"]
SAMPLING = ["sampling.max_new_tokens=60", "samples_per_prompt=8", "chunk_responses=32"]
TUNING = ["steps=2", "batch_sequences=3", "micro_batch_size=1"]


def run_all(world: dict[str, str], folder: Path, stages: list[str]) -> None:
    """Run compare, rejection sampling, and PPO at each ZeRO stage."""
    pairs = {"checkpoint_a": world["checkpoint"], "prompts": world["prompts"]}
    compare(compose("compare", CompareConfig, overrides(pairs, folder, "compare", "sampling.max_new_tokens=8")))
    base = f"base={world['checkpoint']}"
    arguments = overrides(world, folder, "rejection_sampling", *SAMPLING, *TUNING, base)
    rejection_sampling(compose("rejection_sampling", RejectionSamplingConfig, arguments))
    for stage in stages:
        arguments = overrides(world, folder, f"ppo{stage}", *PPO, *RATES, f"zero=stage{stage}")
        ppo(compose("ppo", PPOConfig, arguments))
        arguments = overrides(world, folder, f"uneven{stage}", *PPO, *RATES, f"zero=stage{stage}", *UNEVEN)
        ppo(compose("ppo", PPOConfig, arguments))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_all(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","))
