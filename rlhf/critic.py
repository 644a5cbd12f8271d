"""A critic that fits the rewards before the policy moves (the paper is silent on the critic).

The critic starts as a copy of the helpfulness reward model, whose scores are logits, or of the policy with a new head; what
it has to predict are whitened scores with a KL term. Values of another scale make advantages that say little about the response and much about the
offset, which falls on the last token: from it the policy would learn not to end. So until the policy moves
the head is rescaled to the returns of each batch, in closed form.

Shapes: n response tokens of this rank's rollouts, D hidden dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from llamatrain import distributed
from llamatrain.engine.learning import Engine
from llamatrain.responses.rollouts import pack_rollouts
from llamatrain.start import SCORE

from .experience import Batch, Judged, gather
from .passes import passes
from .ppo_config import PPOConfig


def rescale(cfg: PPOConfig, critic: Engine, batch: Batch, context: int) -> list[Judged]:
    """Fit the critic's head to the rewards that follow each token of a batch; return the batch's rollouts with new values.

    The new head is the scale of the old one and the offset that are best in the least squares' sense. A head has no
    bias: the direction of the mean hidden state serves as one. Two numbers are fit by any batch; a whole head fit to a
    few hundred responses would know them by heart.
    """
    own = distributed.shard(batch.judged)
    following = distributed.shard(batch.credit.following)
    lengths = [len(j.values) for j in own]
    none = torch.empty(0)  # of a rank without a rollout
    targets = torch.cat([none, *(f[:length] for f, length in zip(following, lengths, strict=True))]).double()
    old = torch.cat([none, *(j.values for j in own)]).double()

    # Two passes over the batch, each a micro-batch at a time: the hidden states of all tokens are never held.
    total = torch.stack([hidden.sum(0) for hidden in hidden_states(cfg, critic, own, context)]).sum(0)
    mean = distributed.all_reduce_sum(total) / distributed.all_reduce_sum(float(len(old)))
    direction = mean / mean.square().sum()  # (D,), 1 at the mean hidden state
    offset = torch.cat([hidden @ direction for hidden in hidden_states(cfg, critic, own, context)])

    # The normal equations: five sums over tokens, which add up over the ranks.
    features = torch.stack([old, offset], 1)  # (n, 2)
    moments = distributed.all_reduce_sum(features.T @ torch.cat([features, targets[:, None]], 1))  # (2, 3)
    scale, shift = (torch.linalg.pinv(moments[:, :2]) @ moments[:, 2]).tolist()

    for name, weight in critic.state.parameters_by_name():
        if name == SCORE:
            head = scale * weight.double().cpu() + shift * direction
    critic.state.load_parameters([(SCORE, head.float())])
    # What the new head would read, without another forward pass: it is linear in both features.
    values = (scale * old + shift * offset).float().split(lengths)
    return gather([replace(j, values=new) for j, new in zip(own, values, strict=True)])


@torch.no_grad()
def hidden_states(cfg: PPOConfig, critic: Engine, own: list[Judged], context: int) -> Iterator[Tensor]:
    """Yield what the head reads at each response token (n, D), float64 on the CPU, a pass at a time: as many on every rank."""
    read: list[Tensor] = []
    hook = critic.module.score.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    try:
        rollouts = [j.rollout for j in own]
        for part in passes(cfg, rollouts, context):
            packed = pack_rollouts(rollouts[part], context, distributed.device())
            critic(**packed.inputs, select=packed.before)
            yield read.pop().double().cpu()
    finally:
        hook.remove()
