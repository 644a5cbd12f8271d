"""Which responses share a forward pass: as many as their tokens allow, not as many as a number says.

At ZeRO-3 each pass gathers the model, and on a GPU a small one leaves it idle, so short responses go together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llamatrain import distributed
from llamatrain.data.packing import pack
from llamatrain.responses.rollouts import Rollout
from llamatrain.shares import largest_share

from .ppo_config import PPOConfig

TIMES = 2  # no layer's activations and no gradient of the logits stay: twice as much is less than learning holds


def passes(cfg: PPOConfig, rollouts: Sequence[Rollout], context: int) -> list[slice]:
    """Return which consecutive rollouts of this rank share each pass; all ranks, together, return as many, perhaps empty.

    A pass takes what `micro_batch_size` responses of full length would: so many times the context in its packed rows, and
    so many times the longest response in tokens whose logits are made; and no more responses than a rank's share of a
    mini-batch. Without gradients it takes twice as much. A single response is always taken.
    """
    assert cfg.micro_batch_size is not None, "a program fills in what is left to the memory"
    times = 1 if torch.is_grad_enabled() else TIMES
    size, most = times * cfg.micro_batch_size, times * largest_share(cfg.mini_batch_prompts, distributed.world_size())
    longest = min(cfg.sampling.max_new_tokens, context)
    found: list[slice] = []
    start = 0
    for end in range(1, len(rollouts) + 1):
        taken = rollouts[start:end]
        fits = (
            len(taken) <= most
            and sum(len(one.tokens) for one in taken) <= size * longest
            and (len(taken) <= size or cells(taken, context) <= size * context)
        )
        if not fits and len(taken) > 1:
            found.append(slice(start, end - 1))
            start = end - 1
    if len(rollouts) > start:
        found.append(slice(start, len(rollouts)))
    # A pass that one rank has and another lacks would leave it waiting for the other's part of the weights.
    most_passes = max(distributed.gather_objects(len(found)))
    return found + [slice(len(rollouts), len(rollouts))] * (most_passes - len(found))


def cells(rollouts: Sequence[Rollout], context: int) -> int:
    """Return the tokens of the rows that rollouts are packed into, their padding included."""
    lengths = [len(one.prompt.tokens) + len(one.tokens) for one in rollouts]
    rows = pack(lengths, context)
    return len(rows) * max(sum(lengths[i] for i in row) for row in rows)
