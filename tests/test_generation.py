"""Generation against plain, uncached references."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llamatrain.errors import UserError
from llamatrain.generation import Generated, generate, noise_key, nucleus, sample, stream, uniform
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.settings import Sampling
from tests.model import stories260k

EOS = 2


@pytest.fixture
def model(model_config: ModelConfig) -> Transformer:
    """A random model with clear preferences that ends some responses by itself."""
    model = Transformer(dataclasses.replace(model_config, init_std=0.3), seed=0)
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
        noise = uniform([noise_key(sampling.seed, *key)], [len(response.tokens)])
        token, logprob = sample(logits, sampling.temperature, sampling.top_p, noise)
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
        assert response.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert response.finished == other.finished
        assert response.prompt_tokens == other.prompt_tokens
    assert sorted(done) == list(range(14))
    assert len({response.finished for response in responses}) == 2 or sampling.temperature == 0


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
        assert response.logprobs == pytest.approx(alone.logprobs, abs=1e-4)


def test_seed_prompt_and_number_change_the_noise(model: Transformer) -> None:
    prompt = [5, 6, 7]
    cases = [(0, ("a", 0)), (0, ("a", 1)), (0, ("b", 0)), (1, ("a", 0)), (0, ("a", 0))]
    drawn = [generate(model, [prompt], [key], Sampling(1.5, 1.0, 12, seed), -1, 1)[0].tokens for seed, key in cases]
    assert drawn[0] == drawn[4]
    assert len({tuple(tokens) for tokens in drawn}) == 4


def test_logprobs_are_the_full_models_at_the_temperature(model: Transformer) -> None:
    prompts, keys = ragged(6)
    for response in generate(model, prompts, keys, Sampling(0.6, 0.8, 20, 0), EOS, 4):
        with torch.no_grad():
            logits = model(torch.tensor([response.prompt_tokens + response.tokens]))[0]
        logprobs = (logits / 0.6).log_softmax(-1)[len(response.prompt_tokens) - 1 : -1]
        expected = logprobs.gather(-1, torch.tensor(response.tokens)[:, None])[:, 0]
        assert response.logprobs == pytest.approx(expected.tolist(), abs=1e-4)


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


def released_top_p(probabilities: Tensor, top_p: float) -> Tensor:
    """The rule of the released code, one row at a time."""
    kept = torch.zeros_like(probabilities)
    for row, out in zip(probabilities, kept, strict=True):
        total = 0.0
        for token in row.argsort(descending=True, stable=True):
            if total > top_p:
                break
            out[token] = row[token]
            total += float(row[token])
    return kept


@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.9, 0.999])
def test_nucleus_equals_plain_reference(top_p: float) -> None:
    probabilities = (3 * torch.randn(40, 57)).softmax(-1)
    assert torch.equal(nucleus(probabilities, top_p), released_top_p(probabilities, top_p))


def test_nucleus_keeps_the_earlier_of_equal_tokens() -> None:
    probabilities = torch.tensor([[0.125] * 8, [0.5, 0.125, 0.0, 0.125, 0.125, 0.125, 0.0, 0.0]])
    assert nucleus(probabilities, 0.3).count_nonzero(-1).tolist() == [3, 1]
    assert torch.equal(nucleus(probabilities, 0.55), released_top_p(probabilities, 0.55))


def test_frequencies_follow_the_probabilities() -> None:
    draws, logits = 40_000, torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0, -float("inf")]])
    noise = uniform([noise_key(7, f"prompt {i}", i % 5) for i in range(draws)], [i % 11 for i in range(draws)])
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.85)):
        tokens, logprobs = sample(logits.expand(draws, -1), temperature, top_p, noise)
        whole = (logits[0] / temperature).softmax(-1)
        probabilities = whole if top_p == 1 else released_top_p(whole[None], top_p)[0]
        expected = probabilities / probabilities.sum() * draws
        found = tokens.bincount(minlength=6)
        assert (found[expected == 0] == 0).all()
        kept = expected > 0
        chi_square = ((found - expected)[kept] ** 2 / expected[kept]).sum()
        assert chi_square < 18.5  # 4 degrees of freedom: one in a thousand
        torch.testing.assert_close(logprobs, whole.log()[tokens])


def test_noise_is_uniform_and_without_correlation_between_positions() -> None:
    keys = [noise_key(0, f"p{i}", 0) for i in range(5000)]
    at = [uniform(keys, [position] * 5000) for position in range(4)]
    for x in at:
        assert x.min() >= 0
        assert x.max() < 1
        assert np.histogram(x, bins=10, range=(0, 1))[0] == pytest.approx([500] * 10, abs=90)
    assert np.abs(np.corrcoef(at) - np.eye(4)).max() < 0.06


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
