"""Packed pairs: scores that packing does not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.responses.pairs import (
    WORTH_SHARING,
    Pair,
    collate_pairs,
    narrow_rows,
    score_pairs,
    scores_at_ends,
    shared_tokens,
)


def make_pairs(count: int, seed: int = 0) -> list[Pair]:
    random = np.random.default_rng(seed)

    def tokens() -> np.ndarray:
        return np.append(random.integers(3, 400, int(random.integers(3, 60))), 2).astype(np.int32)

    ratings = ["significantly_better", "slightly_better", None]
    return [Pair(tokens(), tokens(), ratings[i % 3], i % 2 == 0, None, False, "made.jsonl", i) for i in range(count)]


def test_packed_scores_equal_scores_one_by_one(model_config: ModelConfig) -> None:
    pairs = make_pairs(7)
    model = ScalarModel(model_config, seed=1)
    with torch.no_grad():
        packed = scores_at_ends(model, collate_pairs(pairs, 128))
        alone = [[model(torch.from_numpy(t).long()[None])[0, -1].item() for t in (p.chosen, p.rejected)] for p in pairs]
    assert torch.allclose(packed, torch.tensor(alone), atol=1e-5)
    assert score_pairs(model, pairs, 128, 3) == [pytest.approx(tuple(s), abs=1e-5) for s in alone]


def with_prompts(pairs: list[Pair], seed: int = 0) -> list[Pair]:
    """The same pairs, each after a prompt of its own, which in every third pair is long."""
    random = np.random.default_rng(seed)
    prompts = [random.integers(3, 400, 80 if i % 3 == 0 else 5).astype(np.int32) for i in range(len(pairs))]
    joined = [
        (np.concatenate([p, pair.chosen]), np.concatenate([p, pair.rejected]))
        for p, pair in zip(prompts, pairs, strict=True)
    ]
    return [replace(pair, chosen=c, rejected=r) for pair, (c, r) in zip(pairs, joined, strict=True)]


@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_a_shared_prompt_gives_the_scores_and_gradients_of_two_sequences(
    model_config: ModelConfig, n_kv_heads: int
) -> None:
    pairs = with_prompts(make_pairs(6))
    pairs.append(
        replace(pairs[0], rejected=np.append(pairs[0].chosen[:-1], [7, 2]).astype(np.int32))
    )  # goes on from the other
    model = ScalarModel(replace(model_config, n_kv_heads=n_kv_heads), seed=1)
    batch = collate_pairs(pairs, 256)
    saved = [count if (count := shared_tokens(pair)) >= WORTH_SHARING * len(pair) else 0 for pair in pairs]
    assert int((batch["segment_ids"] > 0).sum()) == sum(map(len, pairs)) - sum(saved)
    assert all(saved[::3])
    assert not all(saved)
    assert batch["input_ids"][batch["ends"][..., 0], batch["ends"][..., 1]].unique().tolist() == [2]  # EOS
    assert batch["loss_mask"].sum() == 14
    found = scores_at_ends(model, batch)
    found.square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = torch.stack(
        [model(torch.from_numpy(t).long()[None])[0, -1] for p in pairs for t in (p.chosen, p.rejected)]
    ).view(-1, 2)
    alone.square().sum().backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(found, alone, atol=1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, gradients[name], atol=1e-5, rtol=1e-4), name
    with torch.no_grad():  # another way through attention
        assert torch.allclose(scores_at_ends(model, batch), alone, atol=1e-5)


def test_the_answers_of_a_shared_prompt_do_not_see_each_other(model_config: ModelConfig) -> None:
    (pair,) = with_prompts(make_pairs(1))
    other = replace(pair, chosen=np.append(pair.chosen[:-4], [9, 9, 9, 2]).astype(np.int32))
    model = ScalarModel(model_config, seed=1)
    with torch.no_grad():
        first, second = (scores_at_ends(model, collate_pairs([one], 256))[0] for one in (pair, other))
    assert first[0] != second[0]
    assert first[1] == second[1]


def test_a_pair_too_long_to_share_a_row_is_laid_out_as_two(model_config: ModelConfig) -> None:
    pairs = with_prompts(make_pairs(4))
    most = max(pair.longest for pair in pairs)
    batch = collate_pairs(pairs, most)
    assert batch["input_ids"].shape[1] <= most
    assert int((batch["segment_ids"] > 0).sum()) > sum(len(pair) - shared_tokens(pair) for pair in pairs)
    model = ScalarModel(model_config, seed=1)
    with torch.no_grad():
        assert torch.allclose(scores_at_ends(model, batch), scores_at_ends(model, collate_pairs(pairs, 256)), atol=1e-5)


def test_rows_are_as_wide_as_leaves_little_padding() -> None:
    assert narrow_rows([30, 30, 30, 30], 128) == [[0], [1], [2], [3]]
    lengths = [60, 50, 10, 20, 40, 60]
    rows = narrow_rows(lengths, 128)
    assert sorted(i for row in rows for i in row) == list(range(6))
    assert len(rows) * max(sum(lengths[i] for i in row) for row in rows) == sum(lengths)
    assert narrow_rows([], 128) == [[]]
