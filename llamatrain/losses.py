"""The language-model loss over a batch's target tokens.

Shapes: B rows, T tokens, N target positions, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

Batch = dict[str, torch.Tensor]


def next_token_select(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where to predict and what: flattened positions (N,) whose next token is a target, and those tokens (N,).

    A position predicts the token after it only within its own segment, so the last token of one document never
    predicts the first of the next.
    """
    ids, mask, segments = batch["input_ids"], batch["loss_mask"], batch["segment_ids"]
    chosen = torch.zeros_like(mask)
    chosen[:, :-1] = mask[:, 1:] & (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    select = chosen.flatten().nonzero().squeeze(1)
    return select, ids.flatten()[select + 1]


def cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy in nats of logits (N, V) against targets (N,)."""
    return F.cross_entropy(logits, targets, reduction="sum")


def language_model_loss(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the summed loss of a batch's target tokens; `fit` divides by their number over the whole global batch."""
    select, targets = next_token_select(batch)
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        segment_ids=batch["segment_ids"],
        select=select,
    )
    return cross_entropy_sum(logits, targets), {}
