"""The reward models' losses: ranking with a margin, the safety model's auxiliary classification, and centring (paper
3.2.2, A.3.3, A.3.4; centring is ours).

Shapes: m pairs. A score is the raw output of the scalar head; its sigmoid is what the paper quotes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from llamatrain.data.kinds import RATINGS
from llamatrain.errors import UserError

from .config import MARGINS


def margin_of(rating: str | None, kind: str) -> float:
    """Return m(rating) for one of the margins `none`, `small`, `large`; 0 without a rating."""
    if kind not in MARGINS:
        raise UserError(f"margin={kind}: need one of {', '.join(MARGINS)}")
    if rating is None:
        return 0.0
    if rating not in RATINGS:
        raise UserError(f"rating '{rating}': need one of {', '.join(RATINGS)}")
    return MARGINS[kind][RATINGS.index(rating)]


def ranking_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """Return -log sigmoid(chosen - rejected - margin) of each pair, (m,)."""
    return -F.logsigmoid(chosen - rejected - margin)


def centring_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return (chosen + rejected)^2 of each pair, (m,).

    Ranking leaves a shift of all scores free, but RLHF compares the scores of two models with each other and with a
    threshold: this draws the middle of every pair to 0.
    """
    return (chosen + rejected).square()


def auxiliary_loss(scores: Tensor, safe: Tensor) -> Tensor:
    """Return the cross-entropy of sigmoid(score) against "this response is safe", averaged over a pair's two
    responses, (m,).

    `scores` and `safe` are (m, 2), chosen first; a label is 1 (safe), 0 (unsafe) or NaN (not labelled: no loss, no
    gradient). The paper gives neither formula nor weight (A.3.4): this is the plain reading of "an auxiliary safety
    loss".
    """
    labelled = ~safe.isnan()
    # NaN times 0 is NaN: a missing label is replaced before the loss and masked after it.
    losses = F.binary_cross_entropy_with_logits(scores, torch.nan_to_num(safe), reduction="none")
    return (losses * labelled).sum(-1) / 2
