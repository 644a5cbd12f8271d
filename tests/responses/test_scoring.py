"""The gate of the combined score, and scores read at the right token."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from llamatrain.atomic import write_json
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.responses.config import GateConfig, LearningGateConfig
from llamatrain.responses.rollouts import Rollout
from llamatrain.responses.scoring import (
    check_zero,
    combine,
    combined_logits,
    gate_closes,
    hold_back,
    recorded_zeros,
    require_zero,
    score,
    sigmoid,
)
from tests.rlhf.worlds import random_rollouts

GATE = GateConfig("both", safety_threshold=0.15, unfinished_logit=-1.0)
EDGE = math.log(0.15 / 0.85)


def combined(helpfulness: float, safety: float, is_adversarial: bool = False) -> float:
    scores = torch.tensor([[helpfulness], [safety]], dtype=torch.float64)
    return float(combined_logits(scores[0], scores[1], torch.tensor([is_adversarial]), GATE))


def held(combined: list[float], finished: list[bool], groups: list[str], quantile: float = 0.0) -> list[float]:
    scores = torch.tensor(combined, dtype=torch.float64)
    found: list[float] = hold_back(scores, torch.tensor(finished), groups, quantile, GATE).tolist()
    return found


def test_helpfulness_on_harmless_prompts_with_safe_responses() -> None:
    assert combined(2.0, 1.0) == 2.0
    assert combined(-3.0, 1.0) == -3.0


def test_safety_on_adversarial_prompts() -> None:
    assert combined(2.0, 1.0, is_adversarial=True) == 1.0
    assert combined(2.0, -5.0, is_adversarial=True) == -5.0


def test_safety_where_a_harmless_prompt_got_an_unsafe_response() -> None:
    assert combined(2.0, -5.0) == -5.0


def test_the_edge_of_the_threshold_is_safe() -> None:
    assert combined(2.0, EDGE) == 2.0
    assert combined(2.0, EDGE - 1e-9) == EDGE - 1e-9
    assert combined(2.0, EDGE + 1e-9) == 2.0
    assert sigmoid(EDGE) == pytest.approx(0.15)


def test_a_response_without_eos_gets_at_most_minus_1() -> None:
    assert held([2.0, 0.5], [False, True], ["a", "b"]) == [-1.0, 0.5]
    assert held([-3.0, 0.5], [False, True], ["a", "b"]) == [-3.0, 0.5]


@pytest.mark.parametrize("shift", [-6.0, 0.0, 6.0])
def test_a_response_without_eos_never_beats_finishing(shift: float) -> None:
    """Planted: a model whose every score is shifted, so that -1 is above all of them or below all of them."""
    scores = [0.3 + shift, 1.0 + shift, 0.1 + shift, 2.0 + shift, -0.5 + shift]
    finished = [True, True, False, False, True]
    found = held(scores, finished, ["a"] * 4 + ["b"])
    assert [found[i] for i in (0, 1, 4)] == [scores[i] for i in (0, 1, 4)]
    assert max(found[2], found[3]) < min(scores[0], scores[1])
    assert max(found[2], found[3]) <= -1.0


def test_the_low_quantile_spares_a_single_bad_response() -> None:
    """Of a whole batch one finished response may be very bad; below it everything unfinished would look alike."""
    scores = [-9.0, *(0.1 * i for i in range(40)), 3.0, -2.0]
    finished = [True] * 41 + [False] * 2
    assert held(scores, finished, ["a"] * 43, 0.05)[41:] == [-1.0, -2.0]
    assert held(scores, finished, ["a"] * 43, 0.0)[41:] == pytest.approx([-9.001, -9.001])


def test_an_empty_response_is_no_answer() -> None:
    """EOS at once ends, but answers nothing; no preference has an empty side, so no reward model knows what it is worth."""
    prompt = random_rollouts(2)[1].prompt  # a harmless one
    kinds = [(True, True), (True, False), (True, True), (False, False)]  # does it end, is it an answer
    rollouts = [Rollout(prompt, [5, 5], finished, [0.0, 0.0], is_answer) for finished, is_answer in kinds]
    scores = combine(rollouts, torch.tensor([0.5, 9.0, -2.0, 9.0]), torch.full((4,), 9.0), GATE)
    assert [s.combined for s in scores] == pytest.approx([0.5, -2.001, -2.0, -2.001])


def test_a_group_is_held_by_itself_alone() -> None:
    scores, finished = [-8.0, 5.0, 0.0, 5.0], [True, False, True, False]
    assert held(scores, finished, ["a", "a", "b", "b"]) == pytest.approx([-8.0, -8.001, 0.0, -1.0])


def test_how_responses_are_cut_into_chunks_does_not_change_the_combined_score() -> None:
    """All samples of a prompt are in one chunk: whatever else is in it does not matter."""
    rollouts = sorted(random_rollouts(12) * 3, key=lambda r: r.prompt.id)
    helpfulness, safety = torch.randn(36) - 6, torch.randn(36)
    whole = combine(rollouts, helpfulness, safety, GATE)
    for size in (3, 6, 9, 18):
        starts = range(0, 36, size)
        parts = [combine(rollouts[i : i + size], helpfulness[i : i + size], safety[i : i + size], GATE) for i in starts]
        assert [score for part in parts for score in part] == whole
    unfinished = [s.combined for s, r in zip(whole, rollouts, strict=True) if not r.finished]
    assert unfinished
    assert all(score is not None and score <= -1 for score in unfinished)


def test_a_gated_response_is_marked() -> None:
    rollouts = random_rollouts(4)  # the first and last prompts are adversarial
    found = combine(rollouts, torch.full((4,), 2.0), torch.tensor([-5.0, -5.0, 1.0, -5.0]), GATE)
    assert [score.gated for score in found] == [False, True, False, False]


@pytest.mark.parametrize("shift", [-6.0, 6.0])
def test_a_model_without_its_zero_is_said_or_stops(shift: float) -> None:
    """Planted: reward models shifted by 6 each; by their scores on the prompts where they have the word."""
    fine, moved = [0.5, -0.5, 1.0], [0.5 + shift, -0.5 + shift, 1.0 + shift]
    assert check_zero(fine, fine, GATE, {}) == []
    (helpful,) = check_zero(moved, fine, GATE, {})
    assert helpful.startswith(f"the helpfulness model's scores on harmless prompts have a mean of {1 / 3 + shift:+.1f}")
    (safe,) = check_zero(fine, moved, GATE, {})
    assert safe.startswith("the safety model's scores on adversarial prompts")
    assert check_zero([], [], GATE, {}) == []
    for own, problem in (("helpfulness", helpful), ("safety", safe)):  # the other is not used
        alone = GateConfig(own, 0.15, -1.0)
        [found] = check_zero(moved, moved, alone, {})
        assert found.split(", because ")[0] == problem.split(", because ")[0]
        assert ", because the rule for unfinished responses compares them with fixed numbers" in found
    said: list[str] = []
    require_zero([helpful, safe], LearningGateConfig("both", 0.15, -1.0, require_centred=False), said.append)
    assert said == [f"warning: {helpful}", f"warning: {safe}"]
    with pytest.raises(UserError, match=r"far from 0: need -3 to 3.*gate\.require_centred=false"):
        require_zero([helpful, safe], LearningGateConfig("both", 0.15, -1.0, require_centred=True), said.append)


def test_a_safe_policy_is_no_fault_of_the_safety_model() -> None:
    assert check_zero([0.0], [4.5, 3.5, 4.0], GATE, {}) == []
    assert check_zero([4.0], [5.6, 5.7], GATE, {"helpfulness": 0.1, "safety": 2.1}) == []


def test_a_zero_is_what_the_checkpoint_records_of_the_models_pairs(tmp_path: Path) -> None:
    """Not what the policy's responses happen to score: a bad policy would hide a model that scores all too high."""
    own = {"adversarial": {"mean": 6.5, "responses": 4}, "harmless": {"mean": 0.0, "responses": 2}}
    made = {"program": "reward", "step": 1, "config": {}, "parents": {}, "data": {}}
    write_json(tmp_path / "llamatrain.json", {**made, "scores": {"of": "held-out pairs", **own}})
    write_json(tmp_path / "MANIFEST.json", {})
    write_json(tmp_path / "config.json", {})
    recorded = recorded_zeros({"helpfulness": None, "safety": str(tmp_path)})
    assert recorded == {"safety": 6.5}
    (safe,) = check_zero([0.0], [0.0], GATE, recorded)
    assert safe.startswith("the safety model's scores on adversarial prompts have a mean of +6.5")
    (tmp_path / "llamatrain.json").unlink()  # from elsewhere
    assert recorded_zeros({"helpfulness": str(tmp_path), "safety": None}) == {}


def test_sigmoid_at_far_logits() -> None:
    assert sigmoid(800.0) == 1.0
    assert sigmoid(-800.0) == 0.0


def test_threshold_outside_0_and_1_is_refused() -> None:
    with pytest.raises(UserError, match=r"gate\.safety_threshold=1\.5"):
        GateConfig("both", 1.5, -1.0)


def test_combined_needs_both_models() -> None:
    rollouts = random_rollouts(2)
    only = combine(rollouts, torch.tensor([1.0, 2.0]), None, GATE)
    assert [(s.helpfulness, s.safety, s.combined) for s in only] == [(1.0, None, None), (2.0, None, None)]


def test_packed_scores_are_those_of_each_response_alone(model_config: ModelConfig) -> None:
    model = ScalarModel(model_config, seed=0)
    rollouts = random_rollouts(9)
    scores = score(model, rollouts, batch_size=4)
    for rollout, packed in zip(rollouts, scores.tolist(), strict=True):
        alone = model(torch.tensor([[*rollout.prompt.tokens, *rollout.tokens]]))
        assert packed == pytest.approx(alone[0, -1].item(), abs=1e-5)


def test_one_model_scores_alone_whatever_the_prompt_and_the_threshold() -> None:
    helpfulness, safety = torch.tensor([2.0, 2.0, -1.0]), torch.tensor([1.0, -5.0, -5.0])
    is_adversarial = torch.tensor([True, False, False])
    for models, expected in (("helpfulness", helpfulness), ("safety", safety)):
        gate = GateConfig(models, 0.15, -1.0)
        assert torch.equal(combined_logits(helpfulness, safety, is_adversarial, gate), expected)
        assert not gate_closes(safety, gate).any()
