"""Sampling responses, many at a time (released code; paper 3.2.3 samples for RLHF).

A finished response leaves the batch and a waiting prompt takes its slot. The noise of each token is a function of
(seed, program and round, prompt id, sample number, position), so a response does not depend on batch size, refill, ranks or
restarts (up to the rounding of logits), and no program replays the noise of another.

Shapes: B active rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llamatrain import heartbeat
from llamatrain.data.order import GOLDEN, scramble
from llamatrain.errors import UserError
from llamatrain.model.kv_cache import KVCache
from llamatrain.model.transformer import Transformer

from .settings import Sampling


@dataclass
class Generated:
    """A response. `tokens` ends in EOS if `finished`; otherwise the length limit or the context's end cut it.

    `logprobs` are those of the whole distribution at the sampler's temperature, before top-p (greedy: at 1).
    """

    prompt_tokens: list[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
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
) -> list[Generated]:
    """Return a response to every prompt, in order; `keys` are (prompt id, sample number).

    `temperatures`, where given, are the responses' own, in place of the one in `sampling`. `on_done` hears the index of
    each response as it ends; `on_step` is called before each forward pass, and ends the sampling by what it raises.
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
            cache = model.new_cache(size, max(len(prompts[i]) + limits[i] for i in waiting))
            slots = _Slots(cache, responses, limits, noise, sampling, temperatures, eos_id, on_done)
            waiting.reverse()  # taken from its end, so in the prompts' order
            while waiting or slots.active:
                heartbeat.beat("generate")
                if on_step is not None:
                    on_step()
                free = min(size - len(slots.active), len(waiting))
                if free >= min(refill, len(waiting)) and free > 0:
                    newcomers = [waiting.pop() for _ in range(free)]
                    start = len(slots.active)
                    slots.active += newcomers
                    logits = _prefill(model, cache, start, [prompts[i] for i in newcomers])
                    slots.draw(range(start, len(slots.active)), logits)
                else:
                    logits = _step(model, cache, [responses[i] for i in slots.active])
                    slots.draw(range(len(slots.active)), logits)
    for i, limit in enumerate(limits):
        if limit == 0 and on_done is not None:  # a prompt that fills the context: its response is empty
            on_done(i)
    return responses


@dataclass
class _Slots:
    """Responses being sampled, each in a slot of the cache: `active[s]` is the number of the response in slot s."""

    cache: KVCache
    responses: list[Generated]
    limits: list[int]  # the most tokens of each response
    noise: list[int]  # the key of each response's noise
    sampling: Sampling
    temperatures: Sequence[float] | None  # of each response, in place of the one in `sampling`
    eos_id: int
    on_done: Callable[[int], None] | None
    active: list[int] = field(default_factory=list)

    def draw(self, rows: range, logits: Tensor) -> None:
        """Draw the next token of these slots, then free those whose response has ended."""
        numbers = [self.active[s] for s in rows]
        drawn = [self.responses[i] for i in numbers]
        uniforms = uniform([self.noise[i] for i in numbers], [len(response.tokens) for response in drawn])
        temperature: float | Tensor = self.sampling.temperature
        if self.temperatures is not None:
            temperature = torch.tensor([[self.temperatures[i]] for i in numbers], device=logits.device)
        tokens, logprobs = sample(logits, temperature, self.sampling.top_p, uniforms)
        for response, token, logprob in zip(drawn, tokens.tolist(), logprobs.tolist(), strict=True):
            response.tokens.append(token)
            response.logprobs.append(logprob)
            response.finished = token == self.eos_id
        for s in reversed(rows):  # from the last one, so that what moves into a gap has been looked at
            number = self.active[s]
            response = self.responses[number]
            if response.finished or len(response.tokens) == self.limits[number]:
                self._free(s)

    def _free(self, s: int) -> None:
        """Take the response out of slot s; the one in the last slot moves there: active slots stay without a gap."""
        ended, last = self.active[s], self.active.pop()
        if s < len(self.active):
            self.active[s] = last
            self.cache.move(len(self.active), s, _cached(self.responses[last]))
        if self.on_done is not None:
            self.on_done(ended)


def stream(
    model: Transformer, prompt: list[int], key: tuple[str, int], sampling: Sampling, eos_id: int
) -> Iterator[int]:
    """Yield the tokens of one response as they are drawn, EOS included; the same tokens as `generate`'s."""
    limit = _room(model, prompt, key, sampling)
    noise = noise_key(sampling.seed, *key, sampling.program)
    response = Generated(prompt)
    cache = model.new_cache(1, len(prompt) + limit)
    while len(response.tokens) < limit and not response.finished:
        with _inference(model):  # not across the yield: the caller's own state must not change
            logits = _step(model, cache, [response]) if response.tokens else _prefill(model, cache, 0, [prompt])
            drawn, _ = sample(logits, sampling.temperature, sampling.top_p, uniform([noise], [len(response.tokens)]))
        response.tokens.append(int(drawn))
        response.finished = response.tokens[-1] == eos_id
        yield response.tokens[-1]


def sample(
    logits: Tensor, temperature: float | Tensor, top_p: float, uniforms: npt.NDArray[np.float64]
) -> tuple[Tensor, Tensor]:
    """Draw one token per row of logits (B, V) by inverting the cumulative distribution at `uniforms` (B,).

    `temperature` is that of all rows, or (B, 1) each row's own; 0 is greedy.
    Returns tokens (B,) and their log-probabilities (B,) in the whole distribution at this temperature.
    """
    # Greedy rows are taken at temperature 1: the argmax is the same, and their log-probabilities are finite.
    if isinstance(temperature, Tensor):
        divisor: float | Tensor = temperature.where(temperature > 0, 1.0)
    else:
        divisor = temperature or 1.0
    logprobs = torch.log_softmax(logits / divisor, -1)
    if not isinstance(temperature, Tensor) and temperature == 0:
        tokens = logprobs.argmax(-1, keepdim=True)
        return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1)
    probabilities = logprobs.exp()
    if top_p < 1:
        probabilities = nucleus(probabilities, top_p)
    # In vocabulary order: sorted, rounding would swap near-equal tokens and so change the draw.
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    # Times the total, which is less than 1 after top-p: so the nucleus is renormalised.
    targets = torch.from_numpy(uniforms).to(logits.device)[:, None] * cumulative[:, -1:]
    # right=True: the first token whose cumulative exceeds the target, never one of probability 0
    tokens = torch.searchsorted(cumulative, targets, right=True).clamp_(max=logits.shape[-1] - 1)
    if isinstance(temperature, Tensor):
        tokens = tokens.where(temperature > 0, logprobs.argmax(-1, keepdim=True))
    return tokens.squeeze(-1), logprobs.gather(-1, tokens).squeeze(-1)


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


def noise_key(seed: int, prompt_id: str, number: int, program: str = "") -> int:
    """Return the 64-bit key of the noise of one response of a program."""
    return int.from_bytes(hashlib.sha256(f"{program}/{seed}/{number}/{prompt_id}".encode()).digest()[:8], "little")


def uniform(keys: list[int], positions: list[int]) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) for each key and position in the response: SplitMix64 as a counter-based generator."""
    counters = np.array(keys, dtype=np.uint64) + np.array(positions, dtype=np.uint64) * np.uint64(GOLDEN)
    # The upper 53 bits: as many as a float64 holds, so that the largest is still below 1.
    uniforms: npt.NDArray[np.float64] = (scramble(counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniforms


def _room(model: Transformer, prompt: list[int], key: tuple[str, int], sampling: Sampling) -> int:
    """Return how many tokens the response may have."""
    context = model.config.max_seq_len
    if not 0 < len(prompt) <= context:
        raise UserError(f"prompt {key[0]!r} has {len(prompt)} tokens; the model's context (max_seq_len) is {context}")
    return min(sampling.max_new_tokens, context - len(prompt))


def _cached(response: Generated) -> int:
    """Return how many positions of a response are in the cache: all but the token drawn last."""
    return len(response.prompt_tokens) + len(response.tokens) - 1


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
    device = cache.keys.device
    rows = cache.empty_rows(start, width, source)
    logits: Tensor = model(ids.to(device), cache=rows, select=torch.tensor(last).to(device))
    return logits


def _step(model: Transformer, cache: KVCache, responses: list[Generated]) -> Tensor:
    """Feed each slot its last token and return the logits (B, V) that follow."""
    ids = torch.tensor([[response.tokens[-1]] for response in responses], device=cache.keys.device)  # (B, 1)
    logits: Tensor = model(ids, cache=cache.rows(0, 1, [_cached(response) for response in responses]))
    return logits[:, 0]


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
