"""Generation against plain, uncached references."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from llamatrain import generation
from llamatrain.drawing import sample
from llamatrain.errors import UserError
from llamatrain.generation import Generated, generate, stream
from llamatrain.model.config import ModelConfig
from llamatrain.model.kv_cache import KVCache
from llamatrain.model.transformer import Transformer
from llamatrain.noise import key_tensor, noise_key, uniform
from llamatrain.settings import Sampling
from tests.model import stories260k

EOS = 2


@pytest.fixture
def model(model_config: ModelConfig) -> Transformer:
    """A random model with clear preferences that ends some responses by itself; its rounding stays below 1e-5."""
    model = Transformer(dataclasses.replace(model_config, init_std=0.2), seed=0)
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 1.6
    return model


def ragged(count: int) -> tuple[list[list[int]], list[tuple[str, int]]]:
    """Prompts of 1 to 30 tokens, some of them twice."""
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 400) for _ in range(rng.randrange(1, 31))] for _ in range(count)]
    prompts[3] = prompts[4] = prompts[0]
    return prompts, [(f"prompt {i}", i % 3) for i in range(count)]


def uncached(model: Transformer, prompt: list[int], key: tuple[str, int], sampling: Sampling) -> Generated:
    """One response by full forwards."""
    response = Generated(prompt)
    limit = min(sampling.max_new_tokens, model.config.max_seq_len - len(prompt))
    while len(response.tokens) < limit and not response.finished:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response.tokens]))[:, -1]
        noise = uniform(key_tensor([noise_key(sampling.seed, *key)]), torch.tensor([len(response.tokens)]))
        token, logprob, _ = sample(logits, sampling.temperature, sampling.top_p, noise)
        response.tokens.append(int(token))
        response.logprobs.append(float(logprob))
        response.finished = response.tokens[-1] == EOS
    return response


@pytest.mark.parametrize("sampling", [Sampling(0.0, 1.0, 25, 1), Sampling(1.0, 1.0, 25, 1), Sampling(0.7, 0.9, 25, 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_equals_uncached_whatever_the_batch(model: Transformer, sampling: Sampling, batch_size: int) -> None:
    prompts, keys = ragged(14)
    done: list[int] = []
    responses = generate(model, prompts, keys, sampling, EOS, batch_size, done.append)
    expected = [uncached(model, prompt, key, sampling) for prompt, key in zip(prompts, keys, strict=True)]
    assert [response.tokens for response in responses] == [response.tokens for response in expected]
    for response, other in zip(responses, expected, strict=True):
        assert response.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert response.finished == other.finished
        assert response.prompt_tokens == other.prompt_tokens
    assert sorted(done) == list(range(14))
    assert len({response.finished for response in responses}) == 2 or sampling.temperature == 0


class HostReads(TorchDispatchMode):
    """Counts how often the host asks for values of tensors: on a GPU it waits for them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("batch_size", [3, 14])
def test_looking_at_every_eighth_token_changes_nothing(
    model: Transformer, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, keys = ragged(14)
    sampling, temperatures = Sampling(1.0, 0.95, 45, 5), [(0.0, 0.7, 1.3)[i % 3] for i in range(14)]
    expected = generate(model, prompts, keys, sampling, EOS, batch_size, temperatures=temperatures, entropies=True)
    monkeypatch.setitem(generation._LOOK, "cpu", 8)
    done: list[int] = []
    found = generate(model, prompts, keys, sampling, EOS, batch_size, done.append, temperatures, entropies=True)
    assert [(x.tokens, x.finished) for x in found] == [(x.tokens, x.finished) for x in expected]
    for response, other in zip(found, expected, strict=True):
        assert response.logprobs == pytest.approx(other.logprobs, abs=1e-5)
        assert response.entropies == pytest.approx(other.entropies, abs=1e-5)
    assert sorted(done) == list(range(14))


def test_no_token_needs_the_host(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, keys = ragged(14)
    looks, counts = {1: 41, 8: 6}, {}  # each asks which responses have ended
    for every in looks:
        monkeypatch.setitem(generation._LOOK, "cpu", every)
        with HostReads() as reads:
            responses = generate(model, prompts, keys, Sampling(1.0, 0.9, 41, 5), -1, 14)
        assert {len(response.tokens) for response in responses} == {41}
        counts[every] = reads.count
    assert counts == looks


def test_a_prompt_is_encoded_once_for_all_its_samples(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[5, 6, 7, 8, 9], [9, 8, 7], [4, 4, 4]]
    wanted, keys = [prompts[i % 3] for i in range(40)], [(str(i % 3), i) for i in range(40)]
    encoded: list[tuple[int, ...]] = []
    prefill = generation._prefill

    def noted(model: Transformer, cache: KVCache, start: int, prompts: list[list[int]]) -> Tensor:
        encoded.extend(set(map(tuple, prompts)))
        return prefill(model, cache, start, prompts)

    monkeypatch.setattr(generation, "_prefill", noted)
    sampling = Sampling(1.0, 1.0, 30, 5)
    responses = generate(model, wanted, keys, sampling, EOS, 6)
    assert sorted(encoded) == sorted(map(tuple, prompts))
    for prompt, key, response in zip(wanted[:9], keys, responses, strict=False):
        assert response.tokens == uncached(model, prompt, key, sampling).tokens


def test_the_cache_is_as_long_as_the_rows_at_hand(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[tuple[int, int]] = []  # reached and held
    reserve = KVCache.reserve

    def noted(cache: KVCache, length: int) -> None:
        reserve(cache, length)
        rooms.append((length, cache.layers[0][0].shape[2]))

    monkeypatch.setattr(KVCache, "reserve", noted)
    prompts = [[5] * length for length in (3, 110, 4, 5, 3, 4, 6, 3)]
    generate(model, prompts, [(str(i), 0) for i in range(8)], Sampling(1.0, 1.0, 12, 0), -1, 2)
    assert max(reached for reached, _ in rooms) == 121  # the last token is not fed
    assert all(
        reached <= room <= 48 * -(-reached // 32) for reached, room in rooms
    )  # of blocks of 32 half as much again
    assert rooms[-1] == (14, 32)  # after the long prompt the room is given back


def test_order_and_company_leave_a_response_unchanged(model: Transformer) -> None:
    prompts, keys = ragged(14)
    sampling = Sampling(1.0, 0.95, 20, 5)
    whole = generate(model, prompts, keys, sampling, EOS, 5)
    part = generate(model, prompts[::-2], keys[::-2], sampling, EOS, 3)
    assert [x.tokens for x in part] == [x.tokens for x in whole[::-2]]


def test_responses_of_several_temperatures_are_sampled_together(model: Transformer) -> None:
    prompts, keys = ragged(14)
    temperatures = [(0.0, 0.7, 1.3)[i % 3] for i in range(14)]
    together = generate(model, prompts, keys, Sampling(1.0, 0.9, 20, 5), EOS, 5, temperatures=temperatures)
    for prompt, key, temperature, response in zip(prompts, keys, temperatures, together, strict=True):
        alone = generate(model, [prompt], [key], Sampling(temperature, 0.9, 20, 5), EOS, 1)[0]
        assert response.tokens == alone.tokens
        assert response.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_seed_prompt_and_number_change_the_noise(model: Transformer) -> None:
    prompt = [5, 6, 7]
    cases = [(0, ("a", 0)), (0, ("a", 1)), (0, ("b", 0)), (1, ("a", 0)), (0, ("a", 0))]
    drawn = [generate(model, [prompt], [key], Sampling(1.5, 1.0, 12, seed), -1, 1)[0].tokens for seed, key in cases]
    assert drawn[0] == drawn[4]
    assert len({tuple(tokens) for tokens in drawn}) == 4


def test_logprobs_are_the_full_models_at_the_temperature(model: Transformer) -> None:
    prompts, keys = ragged(6)
    sampling = Sampling(0.6, 0.8, 20, 0)
    measured = generate(model, prompts, keys, sampling, EOS, 4, entropies=True)
    for response in measured:
        with torch.no_grad():
            logits = model(torch.tensor([response.prompt_tokens + response.tokens]))[0]
        logprobs = (logits / 0.6).log_softmax(-1)[len(response.prompt_tokens) - 1 : -1]
        expected = logprobs.gather(-1, torch.tensor(response.tokens)[:, None])[:, 0]
        assert response.logprobs == pytest.approx(expected.tolist(), abs=1e-5)
        assert response.entropies == pytest.approx((-logprobs.exp() * logprobs).sum(-1).tolist(), abs=1e-5)
    assert all(one.entropies == [] for one in generate(model, prompts, keys, sampling, EOS, 4))


def test_stream_equals_generate(model: Transformer) -> None:
    prompts, keys = ragged(5)
    sampling = Sampling(0.9, 0.9, 20, 3)
    expected = generate(model, prompts, keys, sampling, EOS, 5)
    for prompt, key, response in zip(prompts, keys, expected, strict=True):
        assert list(stream(model, prompt, key, sampling, EOS)) == response.tokens


def test_eos_ends_a_response_and_is_kept(model: Transformer) -> None:
    first = generate(model, [[9, 10]], [("a", 0)], Sampling(0.0, 1.0, 8, 0), -1, 1)[0]
    assert not first.finished
    assert len(first.tokens) == 8
    stopped = generate(model, [[9, 10]], [("a", 0)], Sampling(0.0, 1.0, 8, 0), first.tokens[2], 1)[0]
    assert stopped.finished
    assert stopped.tokens == first.tokens[: first.tokens.index(first.tokens[2]) + 1]


def test_context_ends_a_response_unfinished(model: Transformer) -> None:
    done: list[int] = []
    prompts = [[5] * 120, [5] * 128]
    long, full = generate(model, prompts, [("a", 0), ("b", 0)], Sampling(0.0, 1.0, 50, 0), -1, 4, done.append)
    assert (len(long.tokens), long.finished) == (8, False)
    assert (full.tokens, full.finished) == ([], False)
    assert sorted(done) == [0, 1]
    assert list(stream(model, prompts[1], ("b", 0), Sampling(0.0, 1.0, 50, 0), -1)) == []


@pytest.mark.parametrize("length", [0, 129])
def test_prompt_that_does_not_fit_is_refused(model: Transformer, length: int) -> None:
    with pytest.raises(UserError, match=f"prompt 'p9' has {length} tokens; .* is 128"):
        generate(model, [[5], [5] * length], [("p1", 0), ("p9", 0)], Sampling(1.0, 1.0, 4, 0), EOS, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [((-1.0, 1.0, 4), "temperature"), ((1.0, 0.0, 4), "top_p"), ((1.0, 1.0, 0), "max_new_tokens")],
)
def test_impossible_sampling_is_refused(values: tuple[float, float, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(*values, seed=0)


def test_nothing_to_do(model: Transformer) -> None:
    assert generate(model, [], [], Sampling(1.0, 1.0, 4, 0), EOS, 8) == []


def test_training_mode_comes_back(model: Transformer) -> None:
    for training in (True, False):
        model.train(training)
        generate(model, [[5]], [("a", 0)], Sampling(1.0, 1.0, 4, 0), EOS, 1)
        assert model.training is training
    assert torch.is_grad_enabled()


def test_greedy_text_of_a_real_model(shared_data: Path) -> None:
    stories = stories260k.read(shared_data / "stories260K")
    sampling = Sampling(0.0, 1.0, 120, 0)
    response = generate(stories.model, [[1]], [("story", 0)], sampling, stories260k.EOS, 1)[0]
    text = stories.text(response.tokens)
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )
    theirs = LlamaForCausalLM(LlamaConfig(**stories.model.config.to_hf(scalar_head=False)))
    theirs.load_state_dict(stories.model.state_dict(), strict=False)
    expected = theirs.generate(torch.tensor([[1]]), max_new_tokens=120, do_sample=False, pad_token_id=0)  # type: ignore[misc]
    assert response.tokens == expected[0, 1:].tolist()
