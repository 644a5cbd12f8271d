"""Packed pairs: scores that packing does not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.responses.pairs import Pair, collate_pairs, score_pairs, scores_at_ends


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
