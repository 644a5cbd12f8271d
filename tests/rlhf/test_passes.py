"""Passes by tokens: all responses once, in order, within what so many of full length would take."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from llamatrain import distributed
from llamatrain.responses.rollouts import Rollout
from rlhf.passes import cells, passes
from rlhf.ppo_config import PPOConfig

from .small import composed
from .worlds import random_rollouts

CONTEXT = 40


def settings(world: dict[str, str], folder: Path, size: int) -> PPOConfig:
    more = ["sampling.max_new_tokens=21", "rollout_prompts=64", "mini_batch_prompts=32", f"micro_batch_size={size}"]
    return composed(world, folder, "ppo", *more)


def cut(rollouts: Sequence[Rollout], tokens: int) -> list[Rollout]:
    return [dataclasses.replace(one, tokens=one.tokens[:tokens]) for one in rollouts]


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_all_once_in_order_within_the_budget(size: int, world: dict[str, str], tmp_path: Path) -> None:
    cfg, rollouts = settings(world, tmp_path, size), random_rollouts(64)
    found = passes(cfg, rollouts, CONTEXT)
    assert [i for part in found for i in range(64)[part]] == list(range(64))
    for part in found:
        own = rollouts[part]
        assert 0 < len(own) <= 32
        assert len(own) == 1 or sum(len(one.tokens) for one in own) <= size * 21
        assert len(own) <= size or cells(own, CONTEXT) <= size * CONTEXT


def test_short_responses_share_a_pass_and_full_ones_go_by_number(world: dict[str, str], tmp_path: Path) -> None:
    cfg = settings(world, tmp_path, 4)
    full = [dataclasses.replace(one, tokens=[5] * 21) for one in random_rollouts(16)]
    assert [part.stop - part.start for part in passes(cfg, full, CONTEXT)] == [4, 4, 4, 4]
    assert len(passes(cfg, cut(full, 4), CONTEXT)) < 3
    with torch.no_grad():
        assert [part.stop - part.start for part in passes(cfg, full, CONTEXT)] == [8, 8]
    assert passes(cfg, [], CONTEXT) == []


def test_every_rank_makes_as_many(world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings(world, tmp_path, 4)
    monkeypatch.setattr(distributed, "gather_objects", lambda own: [own, 7])  # of another rank
    rollouts = random_rollouts(8)
    found = passes(cfg, rollouts, CONTEXT)
    assert len(found) == 7
    assert [i for part in found for i in range(8)[part]] == list(range(8))
    assert rollouts[found[-1]] == []
    assert len(passes(cfg, [], CONTEXT)) == 7
