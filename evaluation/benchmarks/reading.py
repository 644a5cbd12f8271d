"""What a language model finds likely, and what it writes, for many token sequences: in batches, shared among the ranks.

All ranks call these together with the same rows and get all results. Shapes: B rows, V vocabulary, N selected positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llamatrain import distributed, heartbeat
from llamatrain.generation import generate
from llamatrain.settings import Sampling
from llamatrain.tokenizer import Tokenizer

BATCHES = 32  # per rank between two looks at whether a signal asked to stop
RESPONSES = 8  # batches of responses between two looks


@dataclass
class Reader:
    """A model that is only read, and how many rows it reads at a time; `sharded`: each forward pass needs all ranks."""

    model: Any  # a Transformer, or DeepSpeed's engine of a sharded one
    tokenizer: Tokenizer
    rows: int
    responses: int
    sharded: bool
    look: Callable[[], None]  # called on all ranks together, now and then; ends the work by what it raises

    @property
    def context(self) -> int:
        """How many tokens the model takes."""
        longest: int = self._module.config.max_seq_len
        return longest

    @property
    def _module(self) -> Any:
        return self.model.module if self.sharded else self.model

    # --- likelihoods ---

    def loglikelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Return of each (context, continuation) the continuation's log-likelihood, and whether it is the greedy one.

        Of what is longer than the model's context the beginning is cut off, also of a continuation. Pairs that differ in
        their last token alone (answers A to D) are read once.
        """
        pairs = [(context, continuation[-self.context :]) for context, continuation in pairs]
        readers: dict[tuple[int, ...], list[int]] = {}  # what is read -> the pairs that it is read for
        for number, (context, continuation) in enumerate(pairs):
            readers.setdefault(tuple([*context, *continuation][-(self.context + 1) :][:-1]), []).append(number)
        inputs = sorted(readers, key=lambda ids: (-len(ids), ids))
        batches = [inputs[i : i + self.rows] for i in range(0, len(inputs), self.rows)]
        found: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(batches), BATCHES * distributed.world_size()):
            part = batches[first : first + BATCHES * distributed.world_size()]
            own = distributed.shard(part)
            if self.sharded:  # as many forward passes on every rank
                own += part[:1] * (math.ceil(len(part) / distributed.world_size()) - len(own))
            read = [self._read(batch, [[(i, pairs[i][1]) for i in readers[ids]] for ids in batch]) for batch in own]
            for results in distributed.gather_objects([item for items in read for item in items]):
                found.update(results)
            self.look()
        return [found[number] for number in range(len(pairs))]

    def _read(
        self, batch: list[tuple[int, ...]], wanted: list[list[tuple[int, list[int]]]]
    ) -> list[tuple[int, tuple[float, bool]]]:
        """Read a batch; return (number, (log-likelihood, is greedy)) of the `wanted` (number, continuation) of each row."""
        heartbeat.beat("read")
        device, width = distributed.device(), max(map(len, batch))
        # Padding on the right is hidden by causal attention.
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=device)
        places = [
            (number, continuation, row * width + len(batch[row]) - len(continuation))
            for row, own in enumerate(wanted)
            for number, continuation in own
        ]
        select = [at + step for _, continuation, at in places for step in range(len(continuation))]
        if not select:
            return [(number, (0.0, True)) for number, _, _ in places]
        targets = torch.tensor([token for _, continuation, _ in places for token in continuation], device=device)
        with torch.no_grad():
            logits = self.model(ids, select=torch.tensor(select, device=device)).float()  # (N, V)
            logprobs = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
            greedy = logits.argmax(-1) == targets
        lengths = [len(continuation) for _, continuation, _ in places]
        return [
            (number, (float(own.sum()), bool(same.all())))
            for (number, _, _), own, same in zip(places, logprobs.split(lengths), greedy.split(lengths), strict=True)
        ]

    # --- generation ---

    def texts(
        self, prompts: Sequence[list[int]], keys: Sequence[tuple[str, int]], sampling: Sampling, until: Sequence[str]
    ) -> list[str]:
        """Return what the model writes after each prompt: up to EOS, the first of the stops `until`, or the limit.

        Of a prompt that leaves no room the beginning is cut off. The `keys` are (prompt, sample number): their noise.
        """
        room = self.context - sampling.max_new_tokens
        cut = [prompt[-room:] for prompt in prompts]
        order = sorted(range(len(cut)), key=lambda i: (-len(cut[i]), i))
        ranks = 1 if self.sharded else distributed.world_size()  # sharded: all make the same steps, for the same rows
        found: dict[int, list[int]] = {}
        for first in range(0, len(order), RESPONSES * self.responses * ranks):
            part = order[first : first + RESPONSES * self.responses * ranks]
            own = part if self.sharded else distributed.shard(part)
            made = generate(
                self._module,
                [cut[i] for i in own],
                [keys[i] for i in own],
                sampling,
                self.tokenizer.eos_id,
                self.responses,
                stops=self._stops(until),
            )
            results = [(i, response.tokens) for i, response in zip(own, made, strict=True)]
            for gathered in [results] if self.sharded else distributed.gather_objects(results):
                found.update(gathered)
            self.look()
        return [self._text(found[i], until) for i in range(len(prompts))]

    def _text(self, tokens: list[int], until: Sequence[str]) -> str:
        text = self.tokenizer.decode(tokens)
        for stop in until:
            text = text.split(stop)[0] if stop else text
        return text

    def _stops(self, until: Sequence[str]) -> Callable[[list[int]], bool]:
        """Return what tells, as each token is drawn, whether a response has come to a stop."""
        # A token that is drawn completes a stop among so many last ones: each has a byte at least.
        tail = max((len(stop.encode()) for stop in until), default=0) + 1

        def stopped(tokens: list[int]) -> bool:
            near = self.tokenizer.decode(tokens[-tail:])
            return any(stop in near for stop in until) and any(stop in self.tokenizer.decode(tokens) for stop in until)

        return stopped
