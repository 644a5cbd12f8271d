"""Which positions are trained, and on what."""

from __future__ import annotations

import torch

from llamatrain.losses import cross_entropy_sum, language_model_loss, next_token_select
from llamatrain.model import ModelConfig, Transformer


def test_targets_are_the_next_tokens_of_the_same_segment() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9, 0], [1, 2, 3, 4, 0, 0]]),
        "segment_ids": torch.tensor([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]]),
        # 8 begins the second segment: nothing may predict it, though it is marked; nor may a row predict the next one's start
        "loss_mask": torch.tensor([[1, 0, 1, 1, 1, 1], [1, 0, 0, 1, 0, 0]]).bool(),
    }
    select, targets = next_token_select(batch)
    assert select.tolist() == [1, 3, 8] and targets.tolist() == [7, 9, 4]


def test_sum_equals_plain_cross_entropy(model_config: ModelConfig) -> None:
    model = Transformer(model_config, seed=0)
    ids = torch.randint(3, 400, (3, 20))
    mask = torch.rand(3, 20) < 0.4
    batch = {
        "input_ids": ids,
        "position_ids": torch.arange(20).expand(3, 20),
        "segment_ids": torch.ones_like(ids),
        "loss_mask": mask,
    }
    loss, _ = language_model_loss(model, batch)
    logprobs = model(ids)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    assert torch.allclose(loss, -(logprobs * mask[:, 1:]).sum(), rtol=1e-6)
    assert torch.allclose(cross_entropy_sum(torch.zeros(4, 8), torch.arange(4)), 4 * torch.tensor(8.0).log())
