"""Sampling responses, many at a time (released code; paper 3.2.3 samples for RLHF).

A finished response leaves the batch and a waiting prompt takes its slot. The noise of each token is a function of
(seed, program and round, prompt id, sample number, position), so a response does not depend on batch size, refill, ranks or
restarts (up to the rounding of logits), and no program replays the noise of another. What is drawn stays on the model's
device until its response has ended: no token needs the host.

Shapes: B active rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llamatrain import heartbeat
from llamatrain.capacity import MOST_TOKENS
from llamatrain.drawing import sample
from llamatrain.errors import UserError
from llamatrain.model.decoding import Decoding
from llamatrain.model.kv_cache import KVCache
from llamatrain.model.transformer import Transformer
from llamatrain.noise import key_tensor, noise_key, uniform

from .settings import Sampling

# How many tokens are drawn between two looks at which responses have ended. A look makes the host wait for a GPU, which
# then waits for the host; what is drawn behind the end of a response meanwhile is dropped.
_LOOK = {"cpu": 1, "cuda": 8}


@dataclass
class Generated:
    """A response. `tokens` ends in EOS if `finished`; otherwise the length limit or the context's end cut it.

    `logprobs` are those of the whole distribution at the sampler's temperature, before top-p (greedy: at 1); so are
    `entropies`, in nats, which are there where they were asked for.
    """

    prompt_tokens: list[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    finished: bool = False


def generate(
    model: Transformer,
    prompts: list[list[int]],
    keys: list[tuple[str, int]],
    sampling: Sampling,
    eos_id: int,
    batch_size: int,
    on_done: Callable[[int], None] | None = None,
    temperatures: Sequence[float] | None = None,
    on_step: Callable[[], None] | None = None,
    stops: Callable[[list[int]], bool] | None = None,
    entropies: bool = False,
) -> list[Generated]:
    """Return a response to every prompt, in order; `keys` are (prompt id, sample number).

    `temperatures`, where given, are the responses' own, in place of the one in `sampling`. `on_done` hears the index of
    each response as it ends; `on_step` is called before each forward pass, and ends the sampling by what it raises.
    `stops` tells of a response's tokens so far whether it is to end there, unfinished; it may get a few tokens more.
    `entropies`: measure those of the distributions that tokens are drawn from.
    UserError: an empty prompt, or one longer than the context.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: need 1 or more")
    responses = [Generated(prompt) for prompt in prompts]
    limits = [_room(model, prompt, key, sampling) for prompt, key in zip(prompts, keys, strict=True)]
    noise = [noise_key(sampling.seed, *key, sampling.program) for key in keys]
    waiting = [i for i, limit in enumerate(limits) if limit > 0]
    if waiting:
        size = min(batch_size, len(waiting))
        refill = max(1, size // 8)  # newcomers are prefilled together: one forward for several
        with _inference(model):
            slots = _Slots(model, size, responses, limits, noise, sampling, temperatures, eos_id, on_done, stops)
            if entropies:
                slots.entropies = torch.zeros_like(slots.logprobs)
            # Longest first, so that slots are alike in length: little padding, and the cache is as short as they are.
            # Equal prompts follow one another. Reversed, as they are taken from its end.
            waiting.sort(key=lambda i: (-len(prompts[i]), prompts[i]))
            waiting.reverse()
            while waiting or slots.active:
                heartbeat.beat("generate")
                if on_step is not None:
                    on_step()
                free = min(size - len(slots.active), len(waiting))
                if free >= min(refill, len(waiting)) and free > 0:
                    at_once = max(1, MOST_TOKENS[slots.device.type] // len(prompts[waiting[-1]]))
                    newcomers = [waiting.pop() for _ in range(min(free, at_once))]
                    slots.admit(newcomers, prompts[waiting[-1]] if waiting else None)
                else:
                    slots.step()
                slots.look()
    for i, limit in enumerate(limits):
        if limit == 0 and on_done is not None:  # a prompt that fills the context: its response is empty
            on_done(i)
    return responses


class _Slots:
    """Responses being sampled, each in a slot of the cache: `active[s]` is the number of the response in slot s.

    The tensors, on the model's device, hold a row for each slot. A response that has ended keeps its slot until the next
    look; what is drawn for it meanwhile is written behind its end, where nothing is read.
    """

    def __init__(
        self,
        model: Transformer,
        size: int,
        responses: list[Generated],
        limits: list[int],
        noise: list[int],
        sampling: Sampling,
        temperatures: Sequence[float] | None,
        eos_id: int,
        on_done: Callable[[int], None] | None,
        stops: Callable[[list[int]], bool] | None,
    ) -> None:
        """Make room for `size` responses at a time, of `limits` tokens at most and with the keys `noise`."""
        self.model, self.responses, self.limits, self.noise = model, responses, limits, noise
        self.sampling, self.temperatures, self.eos_id, self.on_done = sampling, temperatures, eos_id, on_done
        self.stops = stops
        needed = (
            len(response.prompt_tokens) + limit for response, limit in zip(responses, limits, strict=True) if limit
        )
        # One slot more where a prompt is there twice: it keeps the one that is encoded and waited for again.
        self.spare = int(len({tuple(response.prompt_tokens) for response in responses}) < len(responses)) * size
        self.kept: tuple[list[int], Tensor] | None = None  # that prompt, and the logits (1, V) behind it
        self.cache: KVCache = model.new_cache(size + (self.spare > 0), max(needed))
        self.decoding = Decoding(model, self.cache, size)
        self.device = self.cache.device
        self.active: list[int] = []
        self.born: list[int] = []  # the step at which the response in each slot had no token
        self.steps, self.unseen = 0, 0  # steps made, and tokens drawn since the last look

        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=self.device)

        width = max(limits) + 1  # one column more than the longest response: what comes behind its end
        self.uniforms = zeros(size, width, dtype=torch.float64)  # the noise of every position
        self.tokens, self.logprobs = zeros(size, width), zeros(size, width, dtype=torch.float32)
        self.count, self.limit, self.last, self.before = zeros(size), zeros(size), zeros(size), zeros(size)
        self.ended = zeros(size, dtype=torch.bool)
        self.entropies: Tensor | None = None  # of the distributions, as wide as `logprobs`, where they are measured
        self.temperature = None if temperatures is None else zeros(size, 1, dtype=torch.float32)

    def admit(self, newcomers: list[int], following: list[int] | None) -> None:
        """Take responses into the slots behind the active ones and draw their first token.

        `following` is the prompt that waits next.
        """
        start = len(self.active)
        self.active += newcomers
        self.born += [self.steps - 1] * len(newcomers)
        self._span()
        rows = slice(start, len(self.active))
        prompts = [self.responses[i].prompt_tokens for i in newcomers]
        keys = key_tensor([self.noise[i] for i in newcomers], self.device)
        self.uniforms[rows] = uniform(keys[:, None], torch.arange(self.uniforms.shape[1], device=self.device))
        self.before[rows] = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        self.limit[rows] = torch.tensor([self.limits[i] for i in newcomers], device=self.device)
        self.count[rows], self.ended[rows] = 0, False
        if self.temperature is not None and self.temperatures is not None:
            own = [[self.temperatures[i]] for i in newcomers]
            self.temperature[rows] = torch.tensor(own, device=self.device)
        self._draw(rows, self._encode(start, prompts, following))

    def _encode(self, start: int, prompts: list[list[int]], following: list[int] | None) -> Tensor:
        """Fill the slots from `start` with prompts and return the logits (B, V) after each; no prompt runs twice.

        As they come sorted, only the last one can be the next refill's too.
        """
        parts: list[Tensor] = []
        known = 0
        if self.kept is not None:
            prompt, logits = self.kept
            known = sum(other == prompt for other in prompts)  # the first ones; each slot in use reaches as far
            into = torch.arange(start, start + known, device=self.device)
            self.cache.move(torch.full_like(into, self.spare), into, len(prompt))
            parts.append(logits.expand(known, -1))
        if known < len(prompts):
            parts.append(_prefill(self.model, self.cache, start + known, prompts[known:]))
        found = torch.cat(parts)
        if following != prompts[-1]:
            self.kept = None
        elif self.kept is None or self.kept[0] != following:
            self.kept = prompts[-1], found[-1:].clone()
            last = torch.tensor([start + len(prompts) - 1], device=self.device)
            self.cache.move(last, torch.full_like(last, self.spare), len(prompts[-1]))
        return found

    def step(self) -> None:
        """Draw the next token of every active slot."""
        rows = slice(0, len(self.active))
        cached = self.before[rows] + self.count[rows]  # positions in the cache: all but the token drawn last
        end = min(self.reach + self.steps, self.cache.longest)
        self.steps += 1
        self._draw(rows, self.decoding.logits(self.last[rows], cached, end))

    def look(self) -> None:
        """Every few tokens, hand over the responses that have ended and free their slots."""
        self.unseen += 1
        # Sooner where all have reached their limits.
        if self.unseen < _LOOK[self.device.type] and self.steps < self.over:
            return
        self.unseen = 0
        if self.stops is not None:
            self._end_stopped(self.stops)
        ended: list[int] = self.ended[: len(self.active)].nonzero().flatten().tolist()
        if not ended:
            return
        longest = max(self.steps - self.born[s] for s in ended)
        rows = torch.tensor(ended, device=self.device)
        counts = self.count[rows].tolist()
        tokens, logprobs = self.tokens[rows, :longest].tolist(), self.logprobs[rows, :longest].tolist()
        entropies = [[]] * len(ended) if self.entropies is None else self.entropies[rows, :longest].tolist()
        numbers = [self.active[s] for s in ended]
        for number, count, *own in zip(numbers, counts, tokens, logprobs, entropies, strict=True):
            response = self.responses[number]
            response.tokens, response.logprobs, response.entropies = (values[:count] for values in own)
            response.finished = response.tokens[-1] == self.eos_id
        self._free(ended)
        if self.on_done is not None:
            for number in numbers:
                self.on_done(number)

    def _end_stopped(self, stops: Callable[[list[int]], bool]) -> None:
        """Mark the responses as ended that have come to a stop."""
        counts = self.count[: len(self.active)].tolist()
        drawn = self.tokens[: len(self.active), : max(counts, default=0)].tolist()
        for s, (tokens, count) in enumerate(zip(drawn, counts, strict=True)):
            if stops(tokens[:count]):
                self.ended[s] = True

    def _draw(self, rows: slice, logits: Tensor) -> None:
        """Draw a token in each of these slots from its logits (B, V)."""
        count, ended, place = self.count[rows], self.ended[rows], self.count[rows, None]  # views: written in place
        temperature = self.sampling.temperature if self.temperature is None else self.temperature[rows]
        uniforms = self.uniforms[rows].gather(1, place).squeeze(1)
        tokens, logprobs, whole = sample(logits, temperature, self.sampling.top_p, uniforms)
        self.tokens[rows].scatter_(1, place, tokens[:, None])
        self.logprobs[rows].scatter_(1, place, logprobs[:, None])
        if self.entropies is not None:
            self.entropies[rows].scatter_(1, place, -(whole.exp() * whole).sum(-1, keepdim=True))
        self.last[rows] = tokens
        count += ~ended
        ended |= (tokens == self.eos_id) | (count == self.limit[rows])

    def _free(self, ended: list[int]) -> None:
        """Free these slots; those in the last ones move there, so that active slots stay without a gap."""
        source = list(range(len(self.active)))
        for s in reversed(ended):
            last = source.pop()
            if s < len(source):
                source[s] = last
        targets = [s for s in ended if s < len(source)]
        if targets:
            moved = [source[s] for s in targets]
            length = max(len(self.responses[self.active[s]].prompt_tokens) + self.steps - self.born[s] for s in moved)
            into, out_of = torch.tensor(targets, device=self.device), torch.tensor(moved, device=self.device)
            self.cache.move(out_of, into, min(length, self.cache.longest))
            state = [
                self.uniforms,
                self.tokens,
                self.logprobs,
                self.before,
                self.count,
                self.limit,
                self.last,
                self.ended,
            ]
            for rows in (*state, self.temperature, self.entropies):
                if rows is not None:
                    rows[into] = rows[out_of]
        self.active, self.born = [self.active[s] for s in source], [self.born[s] for s in source]
        self._span()

    def _span(self) -> None:
        """Note how far the slots reach, beyond the steps made, and the step at which all of them meet their limits."""
        pairs = list(zip(self.active, self.born, strict=True))
        self.reach = max((len(self.responses[i].prompt_tokens) - born for i, born in pairs), default=0)
        self.over = max((self.limits[i] + born for i, born in pairs), default=0)


def stream(
    model: Transformer, prompt: list[int], key: tuple[str, int], sampling: Sampling, eos_id: int
) -> Iterator[int]:
    """Yield the tokens of one response as they are drawn, EOS included; the same tokens as `generate`'s."""
    limit = _room(model, prompt, key, sampling)
    cache = model.new_cache(1, len(prompt) + limit)
    decoding, device = Decoding(model, cache, 1), cache.device
    noise = uniform(
        key_tensor([noise_key(sampling.seed, *key, sampling.program)], device)[:, None],
        torch.arange(limit, device=device),
    )
    token = torch.empty(0)
    for count in range(limit):
        with _inference(model):  # not across the yield: the caller's own state must not change
            cached = len(prompt) + count - 1
            if count:
                logits = decoding.logits(token, torch.tensor([cached], device=device), cached + 1)
            else:
                logits = _prefill(model, cache, 0, [prompt])
            token, *_ = sample(logits, sampling.temperature, sampling.top_p, noise[:, count])
        drawn = int(token)
        yield drawn
        if drawn == eos_id:
            break


def _room(model: Transformer, prompt: list[int], key: tuple[str, int], sampling: Sampling) -> int:
    """Return how many tokens the response may have."""
    context = model.config.max_seq_len
    if not 0 < len(prompt) <= context:
        raise UserError(f"prompt {key[0]!r} has {len(prompt)} tokens; the model's context (max_seq_len) is {context}")
    return min(sampling.max_new_tokens, context - len(prompt))


def _prefill(model: Transformer, cache: KVCache, start: int, prompts: list[list[int]]) -> Tensor:
    """Fill the slots from `start` with prompts and return the logits (B, V) after each; equal prompts run once."""
    row_of: dict[tuple[int, ...], int] = {}  # prompt -> its row in the forward pass
    for prompt in prompts:
        row_of.setdefault(tuple(prompt), len(row_of))
    source = [row_of[tuple(prompt)] for prompt in prompts]
    width = max(map(len, prompts))
    # Padding on the right is harmless: causal attention hides it, and later tokens overwrite it in the cache.
    ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in row_of])
    last = [row * width + len(prompt) - 1 for row, prompt in zip(source, prompts, strict=True)]  # flattened positions
    device = cache.device
    rows = cache.empty_rows(start, width, source)
    logits: Tensor = model(ids.to(device), cache=rows, select=torch.tensor(last).to(device))
    return logits


@contextmanager
def _inference(model: Transformer) -> Iterator[None]:
    """Evaluation mode without gradients, and back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
