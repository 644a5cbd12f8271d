"""Drawing tokens from logits: temperature, top-p and the draw itself, on the device of the logits.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sample(
    logits: Tensor, temperature: float | Tensor, top_p: float, uniforms: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per row of logits (B, V) by inverting the cumulative distribution at `uniforms` (B,), float64.

    `temperature` is that of all rows, or (B, 1) each row's own; 0 is greedy.
    Returns tokens (B,), their log-probabilities (B,) in the whole distribution at this temperature, and those of all
    tokens (B, V).
    """
    # Greedy rows are taken at temperature 1: the argmax is the same, and their log-probabilities are finite.
    if isinstance(temperature, Tensor):
        logits = logits / temperature.where(temperature > 0, 1.0)
    elif temperature not in (0, 1):
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, -1)
    if not isinstance(temperature, Tensor) and temperature == 0:
        tokens = logprobs.argmax(-1, keepdim=True)
        return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1), logprobs
    probabilities = logprobs.exp()
    if top_p < 1:
        probabilities = nucleus(probabilities, top_p)
    # In vocabulary order: sorted, rounding would swap near-equal tokens and so change the draw.
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    # Times the total, which is less than 1 after top-p: so the nucleus is renormalised.
    targets = uniforms[:, None] * cumulative[:, -1:]
    # right=True: the first token whose cumulative exceeds the target, never one of probability 0
    tokens = torch.searchsorted(cumulative, targets, right=True).clamp_(max=logits.shape[-1] - 1)
    if isinstance(temperature, Tensor):
        tokens = tokens.where(temperature > 0, logprobs.argmax(-1, keepdim=True))
    return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1), logprobs


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Return the probabilities (B, V) with those outside the nucleus set to 0, not renormalised.

    Released code: sort descending and drop a token where those before it already hold more than top_p.
    """
    ordered = _descending(probabilities)
    # How many stay in each row: those before which no more than top_p lies.
    kept = (ordered.cumsum(-1) - ordered <= top_p).sum(-1, keepdim=True).clamp_(min=1)  # the first always stays
    least = ordered.gather(-1, kept - 1)
    above, equal = probabilities > least, probabilities == least
    among_equals = kept - above.sum(-1, keepdim=True)  # of equal tokens the earlier ids stay, as in a stable sort
    return probabilities.where(above | (equal & (equal.cumsum(-1) <= among_equals)), 0.0)


def _descending(values: Tensor) -> Tensor:
    """Sort each row. NumPy's vectorised sort is some thirty times faster than torch's on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1)).flip(-1)
    return values.sort(-1, descending=True).values
