"""The programs of rlhf in one launch, on as many ranks as there are; arguments: world (JSON), folder, ZeRO stages.

A stage `3s` is one at which there is no room for whole reference and reward models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import rlhf.ppo
import rlhf.sizes
from llamatrain.config.compose import compose
from llamatrain.errors import UserError
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from rlhf.compare import compare
from rlhf.config import CompareConfig, RejectionSamplingConfig
from rlhf.experience import Models
from rlhf.ppo import load_models
from rlhf.ppo import train as ppo
from rlhf.ppo_config import PPOConfig
from rlhf.rejection_sampling import train as rejection_sampling

from .worlds import overrides

PPO = [
    "rollout_prompts=8",
    "mini_batch_prompts=4",
    "sampling.max_new_tokens=20",
    "iterations=2",
    "epochs=2",
]
# Two ranks cannot share the rollouts equally, and of each mini-batch the second has none.
UNEVEN = ["rollout_prompts=3", "mini_batch_prompts=1", "epochs=1", "old_logprobs=sampler"]
# All that PPO can do beside its defaults; the text's sequences are shared unequally, too.
SETTINGS = [
    *("kl.place=loss", "kl.estimator=k3", "kl.target=0.5", "kl.horizon=20", "kl_coef=0.2", "critic=policy"),
    *("old_logprobs=sampler", "replay_sequences=3", "run.eval_every=1", "max_prompts_eval=5"),
]
# Rolled back once by a limit that no critic keeps.
FLAGGED = ["guards.action=rollback", "guards.max_rollbacks=1", "guards.value_loss=1e-9"]
RATES = ["optim.lr=1e-3", "critic_optim.lr=1e-3"]
SAMPLING = ["sampling.max_new_tokens=60", "samples_per_prompt=8", "chunk_responses=32"]
SHARDED = "s"
TUNING = ["steps=2", "batch_sequences=3", "micro_batch_size=1"]


def run_all(world: dict[str, str], folder: Path, stages: list[str]) -> None:
    """Run compare, rejection sampling, and PPO at each ZeRO stage; `world` also names a corpus and held-out prompts."""
    more = [f"{key}={world[key]}" for key in ("replay", "prompts_eval")]
    world = {key: value for key, value in world.items() if key not in ("replay", "prompts_eval")}
    pairs = {"checkpoint_a": world["checkpoint"], "prompts": world["prompts"]}
    compare(compose("compare", CompareConfig, overrides(pairs, folder, "compare", "sampling.max_new_tokens=8")))
    base = f"base={world['checkpoint']}"
    arguments = overrides(world, folder, "rejection_sampling", *SAMPLING, *TUNING, base)
    rejection_sampling(compose("rejection_sampling", RejectionSamplingConfig, arguments))
    for stage in stages:
        zero = int(stage[0])
        # A rank's share of a mini-batch is two sequences: at each stage one run takes them together, one singly.
        size, other = 1 + (zero + 1) % 2, 1 + zero % 2
        runs = {
            "ppo": [f"micro_batch_size={size}"],
            "uneven": [f"micro_batch_size={size}", *UNEVEN],
            "settings": [f"micro_batch_size={other}", *SETTINGS, *more],
            "flagged": [f"micro_batch_size={size}", *FLAGGED],  # flagged the second time it ends, on all ranks
        }
        with room(0 if stage.endswith(SHARDED) else 1e12, whole=not stage.endswith(SHARDED)):
            for name, own in runs.items():
                arguments = overrides(world, folder, f"{name}{stage}", *PPO, *RATES, f"zero=stage{zero}", *own)
                with suppress(UserError) if name == "flagged" else nullcontext():
                    ppo(compose("ppo", PPOConfig, arguments))


@contextmanager
def room(left: float, whole: bool) -> Iterator[None]:
    """Leave so much memory beside what PPO needs, and see that the models that it only reads are then `whole`."""

    def load(*arguments: Any) -> Models:
        models = load_models(*arguments)
        assert isinstance(models.reference, Transformer) is isinstance(models.safety, ScalarModel) is whole
        return models

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf.sizes, "left_by_whole", lambda *_: (1.0, left))
        patch.setattr(rlhf.ppo, "load_models", load)
        yield


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_all(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","))
