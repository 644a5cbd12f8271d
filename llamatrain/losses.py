"""The language-model loss over a batch's target tokens.

Shapes: B rows, T tokens, N target positions, C model dimension, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .linear import linear

Batch = dict[str, torch.Tensor]


def next_token_select(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where to predict and what: flattened positions (N,) whose next token is a target, and those tokens (N,).

    A position predicts the token after it only within its own segment, so the last token of one document never
    predicts the first of the next.
    """
    ids, mask, segments = batch["input_ids"], batch["loss_mask"], batch["segment_ids"]
    chosen = torch.zeros_like(mask)
    same_segment = segments[:, 1:] == segments[:, :-1]
    chosen[:, :-1] = mask[:, 1:] & same_segment & (segments[:, 1:] > 0)  # segment 0 is padding
    select = chosen.flatten().nonzero().squeeze(1)  # (N,); no target is a row's first, so + 1 stays in its row
    return select, ids.flatten()[select + 1]


# Logits held at a time. On a CPU about what its second-level cache holds, on a GPU enough to keep it busy.
_CHUNK = {"cpu": 1 << 18, "cuda": 1 << 25}
_FEWEST_ROWS = 128  # a matrix product of fewer rows wastes the hardware


def chunk_rows(device: torch.device, vocabulary: int) -> int:
    """Return how many positions' logits a chunk holds."""
    return max(_FEWEST_ROWS, _CHUNK[device.type] // vocabulary)


def linear_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy in nats of the logits hidden @ weight.T against targets, in float32.

    hidden (N, C), weight (V, C), targets (N,). The logits are made, used and dropped a chunk of positions at a time, and
    with them the gradients: no more than a chunk of the N x V numbers is ever held, and nothing is computed twice.
    """
    learning = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    loss: torch.Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, learning)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, learning: bool
    ) -> torch.Tensor:
        rows = chunk_rows(hidden.device, len(weight))
        loss = hidden.new_zeros((), dtype=torch.float32)
        # Many chunks add into the weight's gradient: in bfloat16 the sum would swallow the small ones.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if learning else None
        grad_hidden = torch.empty_like(hidden) if learning else None
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows], targets[start : start + rows, None]
            logits = linear(part, weight).float()  # (rows, V)
            if grad_weight is None or grad_hidden is None:
                loss -= F.log_softmax(logits, dim=-1).gather(1, wanted).sum()
                continue
            # One exponential per logit serves both loss and gradient: the largest probability is 1 / sum(exp(logit -
            # best)), so its logarithm is what log-softmax subtracts.
            best, given = logits.amax(-1, keepdim=True), logits.gather(1, wanted)
            probabilities = torch.softmax(logits, -1, out=logits)
            loss += (best - given - probabilities.amax(-1, keepdim=True).log()).sum()
            # The gradient by the logits, in the same memory: the probabilities, less 1 at the target.
            probabilities.scatter_add_(1, wanted, probabilities.new_full((), -1.0).expand_as(wanted))
            grad_logits = probabilities.to(hidden.dtype)
            grad_hidden[start : start + rows] = linear(grad_logits, weight.t())
            if weight.dtype == torch.float32:
                grad_weight.addmm_(grad_logits.t(), part)
            else:
                grad_weight += grad_logits.t() @ part
        ctx.grads = (grad_hidden, grad_weight)
        ctx.dtype = weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.grads
        ctx.grads = None  # scaled in place: a second backward pass finds nothing
        return grad_hidden.mul_(grad), grad_weight.mul_(grad).to(ctx.dtype), None, None


def language_model_loss(model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the summed loss of a batch's target tokens; `fit` divides by their number over the whole global batch."""
    select, targets = next_token_select(batch)
    loss = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        segment_ids=batch["segment_ids"],
        select=select,
        targets=targets,
    )
    return loss, {}


def text_measures(loss: float, targets: int, text_bytes: int) -> dict[str, float]:
    """Return loss (nats per token), perplexity, and bits per byte of text, which do not depend on the tokenizer."""
    bits = loss / math.log(2) * targets / text_bytes
    # exp(700) is still finite: an absurd loss gives an absurd perplexity, no error.
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "bits_per_byte": bits}
