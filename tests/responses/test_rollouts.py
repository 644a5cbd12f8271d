"""Rollouts in rows: every response token is read where it is predicted."""

from __future__ import annotations

from unittest import mock

import torch

from llamatrain.generation import Generated
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.responses.rollouts import pack_rollouts, portions, sample_rollouts
from llamatrain.settings import Sampling
from llamatrain.tokenizer import Tokenizer
from rlhf.losses import token_logprobs
from tests.rlhf.worlds import random_rollouts

CPU = torch.device("cpu")


def test_positions_point_at_the_right_tokens() -> None:
    rollouts = random_rollouts(10)
    packed = pack_rollouts(rollouts, 64, CPU)
    ids, segments = packed.inputs["input_ids"].flatten(), packed.inputs["segment_ids"].flatten()
    assert packed.targets.tolist() == [token for r in rollouts for token in r.tokens]
    assert torch.equal(ids[packed.before + 1], packed.targets)
    assert torch.equal(segments[packed.before], segments[packed.before + 1])
    assert ids[packed.last].tolist() == [r.tokens[-1] for r in rollouts]
    first = packed.before.split(packed.lengths)  # type: ignore[no-untyped-call]
    assert [int(ids[own[0]]) for own in first] == [r.prompt.tokens[-1] for r in rollouts]
    assert packed.inputs["input_ids"].shape[1] <= 64


def test_logprobs_are_log_softmax_at_the_previous_position_of_the_unpacked_rollout(model_config: ModelConfig) -> None:
    model, temperature = Transformer(model_config, seed=0), 0.8
    rollouts = random_rollouts(7)
    packed = pack_rollouts(rollouts, model_config.max_seq_len, CPU)
    logprobs = token_logprobs(model(**packed.inputs, select=packed.before), packed.targets, temperature)
    for rollout, own in zip(rollouts, torch.split(logprobs, packed.lengths), strict=True):
        start = len(rollout.prompt.tokens)
        tokens = torch.tensor([*rollout.prompt.tokens, *rollout.tokens])
        whole = torch.log_softmax(model(tokens[None])[0] / temperature, -1)
        expected = [whole[start + t - 1, tokens[start + t]] for t in range(len(rollout.tokens))]
        torch.testing.assert_close(own, torch.stack(expected), atol=1e-5, rtol=0)


def test_an_answer_ends_and_says_something(tokenizer: Tokenizer) -> None:
    """EOS alone says nothing; nor does a space before it, with which every answer of the chat format ends."""
    said = ["The fox.", " The fox. ", "", " ", "\n", "The fox."]
    made = [Generated([5], tokenizer.encode(text, eos=i < 5), finished=i < 5) for i, text in enumerate(said)]
    assert len(made[3].tokens) > 1
    with mock.patch("llamatrain.responses.rollouts.generate", return_value=made):
        prompts = [r.prompt for r in random_rollouts(6)]
        rollouts = sample_rollouts(None, prompts, [0] * 6, Sampling(1.0, 1.0, 9, 0), tokenizer, 6)
    assert [r.is_answer for r in rollouts] == [True, True, False, False, False, False]


def test_the_samplers_logprobs_are_those_of_the_forward_pass(model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    model = Transformer(model_config, seed=0)
    prompts = [r.prompt for r in random_rollouts(5)]
    rollouts = sample_rollouts(model, prompts, [0] * 5, Sampling(0.7, 1.0, 10, 0), tokenizer, 3)
    packed = pack_rollouts(rollouts, model_config.max_seq_len, CPU)
    logprobs = token_logprobs(model(**packed.inputs, select=packed.before), packed.targets, 0.7)
    sampler = torch.tensor([p for r in rollouts for p in r.sampler_logprobs])
    torch.testing.assert_close(logprobs, sampler, atol=1e-5, rtol=0)


def test_portions() -> None:
    assert list(portions([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
