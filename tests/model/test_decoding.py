"""Decoding from a cache against one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llamatrain import kernels
from llamatrain.model.config import ModelConfig
from llamatrain.model.decoding import Decoding
from llamatrain.model.kv_cache import KVCache
from llamatrain.model.transformer import Transformer
from tests.model.test_transformer import tokens, wide


def decoded(model: Transformer, ids: Tensor, prompt: int, cache: KVCache | None = None) -> Tensor:
    """Return the logits (B, T - prompt + 1, V) behind each token from the prompt's last on, in slots from 0."""
    cache = cache or model.new_cache(len(ids) + 1, 128)
    decoding = Decoding(model, cache, len(ids))
    found = [model(ids[:, :prompt], cache=cache.empty_rows(0, prompt, list(range(len(ids)))))[:, -1]]
    for at in range(prompt, ids.shape[1]):
        found.append(decoding.logits(ids[:, at], torch.full((len(ids),), at), at + 1))
    return torch.stack(found, 1)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("changes", [{"n_kv_heads": 4}, {"n_kv_heads": 2}, {"n_kv_heads": 1, "tie_embeddings": True}])
def test_equals_one_forward(model_config: ModelConfig, changes: dict[str, Any], apart: bool) -> None:
    model, ids = wide(model_config, **changes), tokens(2, 20)
    if apart:  # as at ZeRO-3, where no weights lie side by side
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    with torch.no_grad():
        torch.testing.assert_close(decoded(model, ids, 9), model(ids)[:, 8:], atol=1e-5, rtol=1e-5)


def test_equals_one_forward_in_bfloat16(model_config: ModelConfig) -> None:
    model, ids = wide(model_config, n_kv_heads=2).bfloat16(), tokens(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(decoded(model, ids, 9), model(ids)[:, 8:], atol=5e-2, rtol=5e-2)


@pytest.mark.skipif(not kernels.has_onednn(), reason="the weights are oneDNN's")
def test_weights_are_laid_out_anew_for_many_sequences_alone(model_config: ModelConfig) -> None:
    kernels.choose("onednn", {})
    model, ids = wide(model_config, n_kv_heads=2), tokens(kernels.FEW, 14)
    cache = model.new_cache(len(ids), 128)
    with torch.no_grad():
        assert Decoding(model, cache, kernels.FEW).head.is_mkldnn
        assert not Decoding(model, cache, kernels.FEW - 1).head.is_mkldnn
        torch.testing.assert_close(decoded(model, ids, 9), model(ids)[:, 8:], atol=1e-5, rtol=1e-5)
    kernels.choose("auto", {kernels.packed(*model.lm_head.weight.shape): "onednn"})
    decoding = Decoding(model, cache, kernels.FEW)
    assert decoding.head.is_mkldnn and not decoding.layers[0].mlp_out[0].is_mkldnn


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_come_as_they_are_gathered(model_config: ModelConfig, tied: bool) -> None:
    model, ids = wide(model_config, n_kv_heads=2, tie_embeddings=tied), tokens(2, 10)
    cache, kept = model.new_cache(2, 16), {parameter: parameter.data for parameter in model.parameters()}

    @contextmanager
    def gathered(module: nn.Module) -> Iterator[None]:
        for parameter in module.parameters():
            parameter.data = kept[parameter]
        yield
        for parameter in module.parameters():
            parameter.data = torch.empty(0)

    with torch.no_grad():
        full = model(ids)
        model(ids[:, :9], cache=cache.empty_rows(0, 9, [0, 1]))
        for parameter in model.parameters():
            parameter.data = torch.empty(0)  # as ZeRO-3 leaves them
        model.gathering = gathered
        found = Decoding(model, cache, 2).logits(ids[:, 9], torch.tensor([9, 9]), 10)
    torch.testing.assert_close(found, full[:, 9], atol=1e-5, rtol=1e-5)
    assert not any(parameter.numel() for parameter in model.parameters())


def test_slots_may_be_filled_to_different_lengths(model_config: ModelConfig) -> None:
    model, ids, lengths = wide(model_config, n_kv_heads=2), tokens(3, 12), torch.tensor([4, 9, 7])
    cache = model.new_cache(3, 12)
    with torch.no_grad():
        full = model(ids)
        model(ids[:, :9], cache=cache.empty_rows(0, 9, [0, 1, 2]))  # beyond two slots' lengths: as padding would
        found = Decoding(model, cache, 3).logits(ids[[0, 1, 2], lengths], lengths, 10)
    torch.testing.assert_close(found, full[[0, 1, 2], lengths], atol=1e-5, rtol=1e-5)


def test_a_cache_grows_and_shrinks_without_loss(model_config: ModelConfig) -> None:
    model, ids = wide(model_config, n_kv_heads=2), tokens(2, 120)
    cache = model.new_cache(2, 128)
    decoding, both = Decoding(model, cache, 2), torch.tensor([1, 1])
    with torch.no_grad():
        full = model(ids)
        model(ids[:, :60], cache=cache.empty_rows(0, 60, [0, 1]))
        assert cache.room == 64
        for at in range(60, 110):
            torch.testing.assert_close(
                decoding.logits(ids[:, at], at * both, at + 1), full[:, at], atol=1e-5, rtol=1e-5
            )
        assert cache.room == 128
        cache.reserve(64)  # half
        assert cache.room == 64
        for at in range(60, 120):
            torch.testing.assert_close(
                decoding.logits(ids[:, at], at * both, at + 1), full[:, at], atol=1e-5, rtol=1e-5
            )


def test_moved_slot_goes_on_alike(model_config: ModelConfig) -> None:
    model = wide(model_config)
    ids, cache = tokens(1, 8), model.new_cache(2, 8)
    with torch.no_grad():
        model(ids[:, :7], cache=cache.empty_rows(1, 7, [0]))
        cache.move(torch.tensor([1]), torch.tensor([0]), 7)
        found = Decoding(model, cache, 1).logits(ids[:, 7], torch.tensor([7]), 8)
        torch.testing.assert_close(found[0], model(ids)[0, -1], atol=1e-5, rtol=1e-5)
