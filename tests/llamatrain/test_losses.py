"""Which positions are trained, and on what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from llamatrain import losses
from llamatrain.losses import language_model_loss, linear_cross_entropy, next_token_select
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer


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


@pytest.mark.parametrize("positions", [0, 1, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_loss_and_the_gradients_of_whole_logits(
    monkeypatch: pytest.MonkeyPatch, positions: int, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(losses._CHUNK, "cpu", 50 * 128)  # three chunks of 128 rows, the last a part
    hidden = torch.randn(positions, 16).to(dtype).requires_grad_()
    weight = torch.randn(50, 16).to(dtype).requires_grad_()
    targets = torch.randint(0, 50, (positions,))
    loss = linear_cross_entropy(hidden, weight, targets)
    (loss / 7).backward()
    found = (loss.detach(), hidden.grad, weight.grad)
    hidden.grad = weight.grad = None
    whole = F.cross_entropy((hidden @ weight.t()).float(), targets, reduction="sum")
    (whole / 7).backward()
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for ours, theirs in zip(found, (whole.detach(), hidden.grad, weight.grad), strict=True):
        assert ours is not None and theirs is not None and ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), found[0])


def test_logits_are_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = op(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    monkeypatch.setitem(losses._CHUNK, "cpu", 1)
    hidden, weight = torch.randn(2000, 8, requires_grad=True), torch.randn(500, 8, requires_grad=True)
    with Watch():
        linear_cross_entropy(hidden, weight, torch.randint(0, 500, (2000,))).backward()
    assert largest == 128 * 500
