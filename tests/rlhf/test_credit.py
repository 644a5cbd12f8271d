"""Credit against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlhf.credit import assign, generalized_advantages, token_rewards, whiten, whiten_scores

LENGTHS = [3, 1, 5]


def padded(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logprobs, reference, values and mask (3, 5), with junk in the padding."""
    generator = torch.Generator().manual_seed(seed)
    logprobs, reference, values = (torch.randn(3, 5, generator=generator) for _ in range(3))
    mask = torch.arange(5)[None] < torch.tensor(LENGTHS)[:, None]
    return logprobs, reference, values, mask


def plain_gae(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """The definition: a discounted sum of temporal differences."""
    count = len(rewards)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < count else 0.0) - values[t] for t in range(count)]
    return [sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.5, 0.0)])
def test_advantages_are_the_plain_sum_of_temporal_differences(gamma: float, gae_lambda: float) -> None:
    rewards, _, values, mask = padded()
    advantages = generalized_advantages(rewards, values, mask, gamma, gae_lambda)
    for row, count in enumerate(LENGTHS):
        expected = plain_gae(rewards[row, :count].tolist(), values[row, :count].tolist(), gamma, gae_lambda)
        assert advantages[row, :count].tolist() == pytest.approx(expected, abs=1e-5)
        assert (advantages[row, count:] == 0).all()


def test_the_score_is_at_the_last_token_and_kl_at_every_token() -> None:
    logprobs, reference, _, mask = padded()
    scores = torch.tensor([10.0, 20.0, 30.0])
    rewards = token_rewards(scores, logprobs, reference, mask, kl_coef=0.1)
    for row, count in enumerate(LENGTHS):
        expected = [-0.1 * float(logprobs[row, t] - reference[row, t]) for t in range(count)]
        expected[-1] += float(scores[row])
        assert rewards[row, :count].tolist() == pytest.approx(expected, abs=1e-5)
        assert (rewards[row, count:] == 0).all()


def test_rewards_of_a_response_add_up_to_equation_4() -> None:
    logprobs, reference, _, mask = padded()
    scores = torch.tensor([1.0, -2.0, 3.0])
    kl = ((logprobs - reference) * mask).sum(1)
    rewards = token_rewards(scores, logprobs, reference, mask, kl_coef=0.05)
    torch.testing.assert_close(rewards.sum(1), scores - 0.05 * kl)


def test_a_policy_that_moved_away_is_punished() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    rewards = token_rewards(
        torch.zeros(1), torch.tensor([[-1.0, -1.0]]), torch.tensor([[-2.0, -2.0]]), mask, kl_coef=1.0
    )
    assert rewards.tolist() == [[-1.0, -1.0]]


def test_whitening_has_mean_0_and_biased_variance_1() -> None:
    values = torch.randn(4, 7) * 3 + 5
    mask = torch.rand(4, 7) < 0.6
    white = whiten(values, mask)
    assert float(white[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(white[mask].var(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert (white[~mask] == 0).all()
    mean, spread = values[mask].mean(), values[mask].std(unbiased=False)
    torch.testing.assert_close(white[mask], (values[mask] - mean) / spread)


def test_whitening_keeps_float32_accuracy_far_from_zero() -> None:
    values = torch.tensor([1000.0, 1001.0, 1002.0, 1003.0])
    torch.testing.assert_close(whiten(values), (values - 1001.5) / 1.25**0.5)


def test_whitening_equal_scores_gives_zeros() -> None:
    assert whiten(torch.full((5,), 3.3)).abs().max() < 1e-3


def test_kinds_of_prompts_are_whitened_apart_whatever_lies_between_their_models() -> None:
    scores, adversarial = torch.tensor([0.1, 0.3, 0.2, 4.0, -4.0]), torch.tensor([False, False, False, True, True])
    apart = whiten_scores(scores, adversarial, apart=True)
    torch.testing.assert_close(apart[:3], whiten(scores[:3]))
    torch.testing.assert_close(apart[3:], whiten(scores[3:]))
    torch.testing.assert_close(whiten_scores(scores + 6 * adversarial, adversarial, apart=True), apart)
    torch.testing.assert_close(whiten_scores(scores, adversarial, apart=False), whiten(scores))
    torch.testing.assert_close(whiten_scores(scores, adversarial & False, apart=True), whiten(scores))  # of one kind


def test_assign_adds_kl_to_whitened_scores_then_whitens_advantages_only() -> None:
    logprobs, reference, values, mask = padded()
    scores = torch.tensor([3.0, -1.0, 0.5])
    credit = assign(whiten(scores), logprobs, reference, values, mask, kl_coef=0.1, gamma=1.0, gae_lambda=0.95)
    rewards = token_rewards(whiten(scores), logprobs, reference, mask, 0.1)
    advantages = generalized_advantages(rewards, values, mask, 1.0, 0.95)
    torch.testing.assert_close(credit.rewards, rewards)
    torch.testing.assert_close(credit.returns, (advantages + values) * mask)
    torch.testing.assert_close(credit.advantages, whiten(advantages, mask))


def test_padding_changes_nothing() -> None:
    logprobs, reference, values, mask = padded()
    scores = whiten(torch.tensor([3.0, -1.0, 0.5]))
    wider = tuple(torch.nn.functional.pad(x, (0, 4), value=7.0) for x in (logprobs, reference, values))
    credit = assign(scores, logprobs, reference, values, mask, 0.1, 1.0, 0.95)
    wide = assign(scores, wider[0], wider[1], wider[2], torch.nn.functional.pad(mask, (0, 4)), 0.1, 1.0, 0.95)
    for name in ("rewards", "advantages", "returns"):
        torch.testing.assert_close(getattr(wide, name)[:, :5], getattr(credit, name))
        assert (getattr(wide, name)[:, 5:] == 0).all()
