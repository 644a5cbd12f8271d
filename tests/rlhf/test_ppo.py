"""PPO: the loop on tiny models."""

from __future__ import annotations

from pathlib import Path

from llamatrain import config
from rlhf.ppo import PPOConfig, train

from .worlds import overrides, read_jsonl

SMALL = ["batch_prompts=8", "mini_batch=4", "micro_batch_size=2", "batch_size=8", "max_new_tokens=8", "iterations=2"]


def ppo(world: dict[str, str], folder: Path, name: str, *more: str) -> Path:
    train(config.compose("ppo", PPOConfig, overrides(world, folder, name, *SMALL, *more)))
    return folder / name


def test_loop(world: dict[str, str], tmp_path: Path) -> None:
    folder = ppo(world, tmp_path, "ppo")
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    print(rows)
