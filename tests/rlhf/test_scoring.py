"""The gate of the combined score, and scores read at the right token."""

from __future__ import annotations

import math

import pytest
import torch

from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from rlhf.config import GateConfig
from rlhf.scoring import combine, combined_logits, score, sigmoid

from .worlds import random_rollouts

GATE = GateConfig(safety_threshold=0.15, unfinished_logit=-1.0)
EDGE = math.log(0.15 / 0.85)


def combined(helpfulness: float, safety: float, is_safety: bool = False, finished: bool = True) -> float:
    scores = torch.tensor([[helpfulness], [safety]], dtype=torch.float64)
    return float(combined_logits(scores[0], scores[1], torch.tensor([is_safety]), torch.tensor([finished]), GATE))


def test_helpfulness_on_harmless_prompts_with_safe_responses() -> None:
    assert combined(2.0, 1.0) == 2.0
    assert combined(-3.0, 1.0) == -3.0


def test_safety_on_safety_prompts() -> None:
    assert combined(2.0, 1.0, is_safety=True) == 1.0
    assert combined(2.0, -5.0, is_safety=True) == -5.0


def test_safety_where_a_harmless_prompt_got_an_unsafe_response() -> None:
    assert combined(2.0, -5.0) == -5.0


def test_the_edge_of_the_threshold_is_safe() -> None:
    assert combined(2.0, EDGE) == 2.0
    assert combined(2.0, EDGE - 1e-9) == EDGE - 1e-9
    assert combined(2.0, EDGE + 1e-9) == 2.0
    assert sigmoid(EDGE) == pytest.approx(0.15)


def test_a_response_without_eos_gets_at_most_minus_1() -> None:
    assert combined(2.0, 1.0, finished=False) == -1.0
    assert combined(-3.0, 1.0, finished=False) == -3.0
    assert combined(2.0, -5.0, is_safety=True, finished=False) == -5.0


def test_sigmoid_at_far_logits() -> None:
    assert sigmoid(800.0) == 1.0
    assert sigmoid(-800.0) == 0.0


def test_threshold_outside_0_and_1_is_refused() -> None:
    with pytest.raises(UserError, match=r"gate\.safety_threshold=1\.5"):
        GateConfig(1.5, -1.0)


def test_combined_needs_both_models() -> None:
    rollouts = random_rollouts(2)
    only = combine(rollouts, torch.tensor([1.0, 2.0]), None, GATE)
    assert [(s.helpfulness, s.safety, s.combined) for s in only] == [(1.0, None, None), (2.0, None, None)]


def test_packed_scores_are_those_of_each_response_alone(model_config: ModelConfig) -> None:
    model = ScalarModel(model_config, seed=0)
    rollouts = random_rollouts(9)
    scores = score(model, rollouts, context=model_config.max_seq_len, batch_size=4)
    for rollout, packed in zip(rollouts, scores.tolist(), strict=True):
        alone = model(torch.tensor([[*rollout.prompt.tokens, *rollout.tokens]]))
        assert packed == pytest.approx(alone[0, -1].item(), abs=1e-5)
