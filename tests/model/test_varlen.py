"""Packed rows as runs of tokens: where they are cut, and that a kernel for runs gives what masks give.

The kernel is a GPU's. Here a plain loop over the runs stands in for it, behind torch's own operator and its gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from llamatrain.data.packing import Sample, collate
from llamatrain.losses import language_model_loss
from llamatrain.model import attention
from llamatrain.model.config import ModelConfig
from llamatrain.model.line import BRANCH
from llamatrain.model.transformer import Transformer
from llamatrain.model.varlen import segment_runs

Answer = tuple[Tensor, Tensor, Tensor]


def packed(length: int = 40) -> dict[str, Tensor]:
    """Return three rows: several segments and padding, one that fills it, and nothing."""
    samples = [
        Sample([3 + (7 * i + j) % 300 for j in range(n)], [j > 0 for j in range(n)])
        for i, n in enumerate((9, 1, 17, 40))
    ]
    return collate(samples, [[0, 1, 2], [3], []], length)[0]


def test_rows_are_cut_where_a_segment_or_a_row_ends() -> None:
    runs = segment_runs(packed()["segment_ids"])
    assert runs.starts.tolist() == [0, 9, 10, 27, 40, 80, 120]
    assert (runs.starts.dtype, runs.longest) == (torch.int32, 40)


def loop(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    """Return causal attention within each run, (T, H, D)."""
    times = q.shape[1] // k.shape[1]
    parts = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        one, two, three = (x[begin:end].transpose(0, 1) for x in (q, k, v))
        two, three = two.repeat_interleave(times, 0), three.repeat_interleave(times, 0)
        parts.append(F.scaled_dot_product_attention(one, two, three, is_causal=True).transpose(0, 1))
    return torch.cat(parts)


CALLS: list[int] = []  # the runs of each call of the kernel


def forward(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, starts_k: Tensor, longest: int, *more: Any) -> Answer:
    max_k, is_causal, scale, window, grouped = *more[:4], *(more[4:5] or [False])  # defaults are left out
    assert torch.equal(starts, starts_k)
    assert longest == max_k == int(starts.diff().max())
    assert (is_causal, scale, list(window)) == (True, None, [-1, 0])
    assert grouped is (q.shape[1] > k.shape[1])
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    CALLS.append(len(starts) - 1)
    return loop(q, k, v, starts), q.new_zeros(q.shape[1], len(q)), torch.zeros(2, dtype=torch.uint64)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, starts: Tensor, *more: Any
) -> Answer:
    times, width = q.shape[1] // k.shape[1], q.shape[2]
    parts: list[list[Tensor]] = [[], [], []]
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        gradient, one, two, three = (x[begin:end].transpose(0, 1) for x in (grad, q, k, v))  # (H or K, T, D)
        two, three = two.repeat_interleave(times, 0), three.repeat_interleave(times, 0)
        later = torch.full((end - begin, end - begin), -torch.inf).triu(1)
        shares = torch.softmax(one @ two.mT / width**0.5 + later, -1)
        scores = shares * (gradient @ three.mT - (gradient * (shares @ three)).sum(-1, keepdim=True)) / width**0.5
        of_heads = scores @ two, scores.mT @ one, shares.mT @ gradient
        for part, x, heads in zip(parts, of_heads, (q.shape[1], k.shape[1], v.shape[1]), strict=True):
            part.append(x.view(heads, -1, *x.shape[1:]).sum(1).transpose(0, 1))
    return torch.cat(parts[0]), torch.cat(parts[1]), torch.cat(parts[2])


@pytest.fixture(scope="module")
def operators() -> Iterator[None]:
    """Put the loop behind torch's operator and its gradient."""
    from torch.nn.attention import varlen

    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)
    yield
    for operator in (varlen._varlen_attn, varlen._varlen_attn_backward):
        operator._disabled_kernel.add("cpu")


@pytest.fixture
def kernel(operators: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the loop serve packed rows; return the number of runs of each call."""
    CALLS.clear()
    monkeypatch.setattr(attention, "has_varlen", lambda *_: True)
    return CALLS


def learned(config: ModelConfig, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of a batch and its gradients."""
    model = Transformer(config, seed=0)
    loss, _ = language_model_loss(model, batch)
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("kind", ["none", "selective", "full"])
def test_runs_give_what_masks_give(
    kind: str, kv_heads: int, model_config: ModelConfig, kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(model_config, n_kv_heads=kv_heads, activation_checkpointing=kind)
    batch = packed()
    loss, grads = learned(config, batch)
    # Attention is not computed again but where all is.
    assert kernel == [6] * config.n_layers * (2 if kind == "full" else 1)
    monkeypatch.setattr(attention, "has_varlen", lambda *_: False)
    masked_loss, masked = learned(config, batch)
    assert torch.allclose(loss, masked_loss, rtol=1e-5)
    for mine, other in zip(grads, masked, strict=True):
        assert torch.allclose(mine, other, atol=1e-5)


def test_rows_of_one_segment_and_branches_take_no_runs(model_config: ModelConfig, kernel: list[int]) -> None:
    """Plain causal attention does for the ones; the others' keys lie apart."""
    model, batch = Transformer(model_config, seed=0), packed()
    one = torch.ones(2, 8, dtype=torch.int64)
    model(batch["input_ids"][:2, :8], segment_ids=one)
    branches = one.clone()
    branches[:, 3:5] += BRANCH
    branches[:, 5:] += 2 * BRANCH
    model(batch["input_ids"][:2, :8], segment_ids=branches)
    assert kernel == []
