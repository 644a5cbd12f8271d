"""Rollouts: sampled responses with their prompts, and how they are laid into rows for a forward pass.

Shapes: N rollouts, n response tokens of all of them, B rows, T tokens a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from llamatrain.chat import decode_response
from llamatrain.data.packing import Sample, collate, pack
from llamatrain.generation import generate
from llamatrain.responses.prompts import Prompt
from llamatrain.settings import Sampling
from llamatrain.tokenizer import Tokenizer

T = TypeVar("T")


@dataclass
class Rollout:
    """A response to a prompt: its tokens end in EOS if it is `finished`.

    Log-probabilities and, where they were asked for, the entropies of the distributions are the sampler's.
    """

    prompt: Prompt
    tokens: list[int]
    finished: bool
    sampler_logprobs: list[float]
    is_answer: bool  # whether it ends with EOS and says something before: a space alone, which ends answers, is nothing
    sampler_entropies: list[float] = field(default_factory=list)


@dataclass
class Packed:
    """Rollouts in rows, isolated from each other, and where to read each response.

    Positions count through the flattened rows, in the order of the rollouts: `before` (n,) is the position that
    predicts each response token, `targets` (n,) are these tokens, `last` (N,) is each response's last token.
    """

    inputs: dict[str, Tensor]  # input_ids, position_ids, segment_ids (B, T)
    before: Tensor
    targets: Tensor
    last: Tensor
    lengths: list[int]  # response tokens of each rollout


def sample_rollouts(
    model: Any,
    prompts: Sequence[Prompt],
    numbers: Sequence[int],
    sampling: Sampling,
    tokenizer: Tokenizer,
    generation_batch_size: int | None,
    on_done: Callable[[int], None] | None = None,
    temperatures: Sequence[float] | None = None,
    on_step: Callable[[], None] | None = None,
    entropies: bool = False,
) -> list[Rollout]:
    """Sample one response to each prompt, in order; `numbers` are the sample numbers that the noise follows from.

    `temperatures`, where given, are the responses' own, in place of the one in `sampling`; `on_done`, `on_step` and
    `entropies` as in `generate`.
    """
    assert generation_batch_size is not None, "a program fills in what is left to the memory"
    keys = [(prompt.id, number) for prompt, number in zip(prompts, numbers, strict=True)]
    tokens = [prompt.tokens for prompt in prompts]
    size, eos_id = generation_batch_size, tokenizer.eos_id
    generated = generate(
        model, tokens, keys, sampling, eos_id, size, on_done, temperatures, on_step, entropies=entropies
    )
    rollouts = []
    for prompt, made in zip(prompts, generated, strict=True):
        is_answer = made.finished and bool(decode_response(made.tokens, tokenizer))
        rollouts.append(Rollout(prompt, made.tokens, made.finished, made.logprobs, is_answer, made.entropies))
    return rollouts


def pack_rollouts(rollouts: Sequence[Rollout], context: int, device: torch.device) -> Packed:
    """Lay rollouts into as few rows of at most `context` tokens as first-fit finds, each its own segment.

    Without rollouts it is a row of padding, in which nothing is read.
    """
    samples: list[Sample] = []
    for rollout in rollouts:
        tokens = [*rollout.prompt.tokens, *rollout.tokens]
        samples.append(Sample(tokens, [False] * len(tokens)))  # no loss mask: `before` and `targets` say what is read
    lengths = [len(sample.tokens) for sample in samples]
    rows = pack(lengths, context) or [[]]
    # Of the fullest row: the rest of the context is padding.
    width = max(1, *(sum(lengths[i] for i in row) for row in rows))
    batch, locations = collate(samples, rows, width)
    starts = (locations[:, 0] * width + locations[:, 1]).tolist()  # flattened
    before, last = [torch.empty(0, dtype=torch.int64)], []
    for rollout, start in zip(rollouts, starts, strict=True):
        first = start + len(rollout.prompt.tokens)
        before.append(torch.arange(first - 1, first - 1 + len(rollout.tokens)))
        last.append(first + len(rollout.tokens) - 1)
    return Packed(
        inputs={key: batch[key].to(device) for key in ("input_ids", "position_ids", "segment_ids")},
        before=torch.cat(before).to(device),
        targets=torch.tensor([token for r in rollouts for token in r.tokens], dtype=torch.int64, device=device),
        last=torch.tensor(last, dtype=torch.int64, device=device),
        lengths=[len(r.tokens) for r in rollouts],
    )


def portions(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield consecutive portions of `size` items, the last one perhaps shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
