"""The scalar model against transformers' LlamaForSequenceClassification."""

from __future__ import annotations

import dataclasses
import math

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer


def test_scores_equal_transformers_on_a_ragged_batch(model_config: ModelConfig) -> None:
    ours = ScalarModel(dataclasses.replace(model_config, init_std=0.2), seed=0)
    theirs = LlamaForSequenceClassification(LlamaConfig(**ours.config.to_hf(scalar_head=True)))  # type: ignore[no-untyped-call]
    theirs.load_state_dict(ours.state_dict())
    lengths = torch.tensor([20, 7, 13])
    segments = (torch.arange(20) < lengths[:, None]).long()
    ids = torch.randint(1, 400, (3, 20)) * segments
    with torch.no_grad():
        scores = ours(ids, segment_ids=segments)
        expected = theirs(ids, attention_mask=segments).logits[:, 0]
    assert scores.shape == (3, 20)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[torch.arange(3), lengths - 1], expected, atol=1e-5, rtol=1e-5)


def test_head_goes_on_a_language_models_decoder(model_config: ModelConfig) -> None:
    transformer = Transformer(model_config, seed=1)
    scalar = ScalarModel(model_config, 2, transformer.model)
    assert scalar.model is transformer.model
    again, other = ScalarModel(model_config, 2), ScalarModel(model_config, 3)
    assert torch.equal(scalar.score.weight, again.score.weight)
    assert not torch.equal(scalar.score.weight, other.score.weight)


def test_head_has_the_spread_it_says(model_config: ModelConfig) -> None:
    dim = 4096
    config = dataclasses.replace(model_config, dim=dim, n_layers=1, hidden_dim=8, n_heads=64, vocab_size=8)
    with torch.device("meta"):
        transformer = Transformer(config, None)
    weight = ScalarModel(config, 0, transformer.model).score.weight
    assert weight.shape == (1, dim)
    assert abs(weight.std().item() * math.sqrt(dim + 1) - 1) < 0.06
