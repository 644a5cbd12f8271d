"""How long work takes on a machine, in seconds, from the least to the most: floating-point operations at a share of the peak,
weights and caches at a share of the memory's bandwidth, and what the ranks exchange.

The ranges and where they are from stand in hardware.py. They hold what GPUs were seen to do elsewhere: ours have shown
nothing yet. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import footprint
from .flops import flops_per_token
from .footprint import SINGLE, WIDTH
from .hardware import HOST_LINK, HOST_UPDATES, READ_SHARE, Machine
from .planning import Work
from .shares import passes

Range = tuple[float, float]
NOTHING = (0.0, 0.0)
# Seconds of a micro-batch, and of a generated token, that do not shrink with the model: operators started one by one. Of CPUs
# as measured on the demo; a GPU's are in its shares.
STEP_FLOOR = 0.004
TOKEN_FLOOR = 0.0012
START = 3.0  # seconds of a stage that loads torch, on a quiet CPU
RECOMPUTED = (
    4 / 3
)  # of the operations of a training step where all activations are recomputed: one more forward pass of three


@dataclass(frozen=True)
class Pace:
    """What a program takes."""

    step: Range  # seconds of an optimizer step; nothing where there are none
    network: float  # of them, that the ranks need to exchange what the ZeRO stage asks; beside the rest
    training: Range  # in all
    sampling: Range
    reading: Range  # tokens that models pass forward only, held-out ones among them

    @property
    def seconds(self) -> Range:
        """All of it, without queues, start-ups and failures."""
        parts = self.training, self.sampling, self.reading
        return sum(low for low, _ in parts), sum(high for _, high in parts)


def pace(work: Work, machine: Machine) -> Pace:
    """Return how long work takes; a training whose length the data say has no time of its own."""
    step, network = NOTHING, 0.0
    if work.zero is not None:
        network = exchanged(work, machine) / machine.joined if machine.ranks > 1 and machine.gpus else 0.0
        step = _step(work, machine, network)
    steps = work.steps or 0.0
    return Pace(step, network, _times(steps, step), _sampling(work, machine), _reading(work, machine))


def _times(count: float, each: Range) -> Range:
    return count * each[0], count * each[1]


def _at(operations: float, work: Work, machine: Machine) -> Range:
    low, high = machine.speed(work.zero.dtype if work.zero is not None else work.dtype)
    return operations / high, operations / low


def _step(work: Work, machine: Machine, network: float) -> Range:
    size, ranks, own = work.size(machine), machine.ranks, work.models
    many = passes(work.rows, size, ranks)
    padding = many * size * ranks / work.rows
    # On small models attention counts; the paper's GPU hours are by 6N, which leaves it out.
    each = sum(
        learning
        * flops_per_token(footprint.parameters(work.model, scalar), work.model, work.tokens, attention=not machine.gpus)
        for scalar, learning, _ in own.heads
    )
    again = RECOMPUTED if work.model.activation_checkpointing == "full" else 1.0
    fast, slow = _at(work.step_tokens * padding * each * again / ranks, work, machine)
    floor = 0.0 if machine.gpus else own.learning * many * STEP_FLOOR
    after = offloaded(work, machine)
    return max(fast + floor, network) + after, max(slow + floor, network) + after


def offloaded(work: Work, machine: Machine) -> float:
    """Return the seconds of a step in which the CPUs update states that are in host memory; GPUs wait for that.

    A rank's share of the gradients has to come there in float32, and its weights have to come back.
    """
    if work.zero is None or not work.zero.offload_optimizer or not machine.gpus:
        return 0.0
    share = work.parameters / machine.ranks
    moved = share * (SINGLE + WIDTH[work.zero.dtype]) / HOST_LINK
    return moved + share * machine.ranks_per_node / HOST_UPDATES


def exchanged(work: Work, machine: Machine) -> float:
    """Return the bytes that a rank sends in an optimizer step, by rings: as many arrive.

    Stage 0 and 1 reduce gradients once a step, 2 and 3 with every micro-batch; 1 and 2 gather the updated weights once a
    step, 3 all weights twice with every micro-batch, forward and backward. Models that only read: `gathered`.
    """
    zero = work.zero
    assert zero is not None
    many = passes(work.rows, work.size(machine), machine.ranks)
    number = work.parameters * _others(machine)
    weights, gradients = number * WIDTH[zero.dtype], number * WIDTH[zero.reduce_dtype or zero.dtype]
    return {
        0: 2 * gradients,
        1: 2 * gradients + weights,
        2: many * gradients + weights,
        3: many * (2 * weights + gradients),
    }[zero.stage]


def _others(machine: Machine) -> float:
    """Return the share of what is sharded that a rank gets from the others."""
    return (machine.ranks - 1) / machine.ranks


def gathered(work: Work, machine: Machine) -> float:
    """Return the bytes of weights that reach a rank while models that ZeRO-3 shards read what was sampled, in all.

    All that are sharded read a round once, a micro-batch at a time: those that learn, and the others where they do not fit
    whole.
    """
    if work.zero is None or work.zero.stage < 3 or not work.models.reading:
        return 0.0
    many, whole = math.ceil(work.share(machine.ranks) / work.size(machine)), work.reads_whole(machine)
    number = sum(
        (learning + (0 if whole else reading)) * footprint.parameters(work.model, scalar)
        for scalar, learning, reading in work.models.heads
    )
    return work.rounds * many * number * WIDTH[work.zero.dtype] * _others(machine)


def gathered_to_sample(work: Work, machine: Machine) -> float:
    """Return the bytes of weights that reach a rank so that a model which ZeRO-3 shards can sample, whole, in all."""
    if work.zero is None or work.zero.stage < 3 or not work.stays:
        return 0.0
    times = (work.rounds if work.sampled else 0) + work.held_out.times
    return times * footprint.parameters(work.model) * WIDTH[work.zero.dtype] * _others(machine)


def _sampling(work: Work, machine: Machine) -> Range:
    """Return the seconds in which responses are written, round by round, `count` at a time on each rank, token by token."""
    low, high, held_out = 0.0, 0.0, work.held_out
    share = held_out.responses if held_out.alone else math.ceil(held_out.responses / machine.ranks)
    for rounds, own in ((work.rounds, work.share(machine.ranks)), (held_out.times, share)):
        if rounds and own:
            one = _round(work, machine, own)
            low, high = low + rounds * one[0], high + rounds * one[1]
    network = gathered_to_sample(work, machine) / machine.joined if machine.gpus else 0.0
    return low + network, high + network


def _round(work: Work, machine: Machine, share: int) -> Range:
    """Return the seconds of a rank's share of a round of sampling."""
    count = min(share, work.responses(machine))
    tokens = math.ceil(share / count) * work.written_tokens  # one after the other
    number = work.model.parameters
    # What is read for a token of each response: the weights once, and keys and values of what stands before it.
    before = int(work.prompt_tokens + work.written_tokens / 2)
    read = number * WIDTH[work.dtype] + count * footprint.cache(work.model, work.dtype, before)
    computed = _at(2.0 * number * count, work, machine)
    prompts = _at(2.0 * number * share * work.prompt_tokens, work, machine)
    if machine.gpus:
        speed = machine.hardware.gpu_gigabytes_per_second * 1e9
        low, high = (read / (part * speed) for part in reversed(READ_SHARE))
    else:
        low = high = TOKEN_FLOOR * work.model.n_layers / 4
        computed = _at(4.0 * number * count, work, machine)  # rows this narrow reach half of a core's speed
    each = max(low, computed[0]), max(high, computed[1])
    return tokens * each[0] + prompts[0], tokens * each[1] + prompts[1]


def _reading(work: Work, machine: Machine) -> Range:
    """Return the seconds in which models read; of responses the rank with the most in a round takes the longest."""
    own = work.rounds * work.share(machine.ranks) / work.sampled if work.sampled else 1 / machine.ranks
    tokens = work.read_tokens * own + work.held_out.tokens / machine.ranks
    fast, slow = _at(2.0 * work.model.parameters * tokens, work, machine)
    network = gathered(work, machine) / machine.joined if machine.gpus else 0.0
    return max(fast, network), max(slow, network)
