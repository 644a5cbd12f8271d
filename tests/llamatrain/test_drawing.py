"""Drawing tokens against plain references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llamatrain.drawing import nucleus, sample
from llamatrain.noise import key_tensor, noise_key, uniform


def released_top_p(probabilities: Tensor, top_p: float) -> Tensor:
    """The rule of the released code, one row at a time."""
    kept = torch.zeros_like(probabilities)
    for row, out in zip(probabilities, kept, strict=True):
        total = 0.0
        for token in row.argsort(descending=True, stable=True):
            if total > top_p:
                break
            out[token] = row[token]
            total += float(row[token])
    return kept


@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.9, 0.999])
def test_nucleus_equals_plain_reference(top_p: float) -> None:
    probabilities = (3 * torch.randn(40, 57)).softmax(-1)
    assert torch.equal(nucleus(probabilities, top_p), released_top_p(probabilities, top_p))


def test_nucleus_keeps_the_earlier_of_equal_tokens() -> None:
    probabilities = torch.tensor([[0.125] * 8, [0.5, 0.125, 0.0, 0.125, 0.125, 0.125, 0.0, 0.0]])
    assert nucleus(probabilities, 0.3).count_nonzero(-1).tolist() == [3, 1]
    assert torch.equal(nucleus(probabilities, 0.55), released_top_p(probabilities, 0.55))


def test_frequencies_follow_the_probabilities() -> None:
    draws, logits = 40_000, torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0, -float("inf")]])
    keys = key_tensor([noise_key(7, f"prompt {i}", i % 5) for i in range(draws)])
    noise = uniform(keys, torch.arange(draws) % 11)
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.85)):
        tokens, logprobs, _ = sample(logits.expand(draws, -1), temperature, top_p, noise)
        whole = (logits[0] / temperature).softmax(-1)
        probabilities = whole if top_p == 1 else released_top_p(whole[None], top_p)[0]
        expected = probabilities / probabilities.sum() * draws
        found = tokens.bincount(minlength=6)
        assert (found[expected == 0] == 0).all()
        kept = expected > 0
        chi_square = ((found - expected)[kept] ** 2 / expected[kept]).sum()
        assert chi_square < 18.5  # 4 degrees of freedom: one in a thousand
        torch.testing.assert_close(logprobs, whole.log()[tokens])
