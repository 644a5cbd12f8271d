"""The arithmetic of memory against what a backward pass keeps here, and against sums that are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llamatrain import footprint
from llamatrain.losses import language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.settings import ZeroConfig

TINY = ModelConfig(
    vocab_size=512,
    dim=64,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    hidden_dim=192,
    max_seq_len=1024,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    init_std=0.02,
    activation_checkpointing="none",
)
LLAMA2_7B = dataclasses.replace(
    TINY, vocab_size=32_000, dim=4096, n_layers=32, n_heads=32, n_kv_heads=32, hidden_dim=11_008, max_seq_len=4096
)
ZERO = ZeroConfig(stage=0, dtype="float32", offload_optimizer=False, offload_parameters=False)


class Alive(TorchDispatchMode):
    """Knows the memory of every tensor that is made inside, and how much of it is still held."""

    def __init__(self, apart: list[torch.Tensor]) -> None:
        super().__init__()
        self.apart = {tensor.untyped_storage()._cdata for tensor in apart}
        self.made: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.apart:
                memory = tensor.untyped_storage()
                self.made[memory._cdata] = memory._weak_ref(), memory.nbytes()
        return out

    def bytes(self) -> int:
        return sum(size for memory, size in self.made.values() if not torch.UntypedStorage._expired(memory))


@pytest.mark.parametrize("tokens", [128, 640])
@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("kind", ["none", "selective", "full"])
def test_a_forward_pass_keeps_what_is_predicted(kind: str, segments: int, tokens: int) -> None:
    config = dataclasses.replace(TINY, activation_checkpointing=kind)
    model, rows = Transformer(config, 0), 2
    ids = torch.randint(3, 512, (rows, tokens))
    batch = {
        "input_ids": ids,
        "position_ids": torch.arange(tokens).repeat(rows, 1),
        "segment_ids": (torch.arange(tokens) * segments // tokens + 1).repeat(rows, 1),
        "loss_mask": torch.ones_like(ids, dtype=torch.bool),
    }
    with Alive([*model.parameters(), *batch.values()]) as alive:
        loss, _ = language_model_loss(model, batch)
    predicted = rows * tokens * footprint.kept(config, ZERO, tokens, segments > 1, "cpu")
    predicted += 4 * (rows * tokens + config.vocab_size) * config.dim  # gradients that the loss makes at once
    assert alive.bytes() == pytest.approx(predicted, rel=0.1)
    del loss


def test_weights_are_counted_as_the_models_have_them() -> None:
    for scalar, model in ((False, Transformer(TINY, None)), (True, ScalarModel(TINY, None))):
        assert footprint.parameters(TINY, scalar) == sum(parameter.numel() for parameter in model.parameters())


def test_stages_shard_what_they_say() -> None:
    numbers, ranks = footprint.parameters(LLAMA2_7B), 64
    held = {
        stage: footprint.trained(LLAMA2_7B, ZeroConfig(stage, "bfloat16", False, False), ranks) for stage in (1, 2, 3)
    }
    # In bytes per parameter: weights, gradients, and this rank's share of masters and moments.
    assert held[1].device / numbers == pytest.approx(2 + 6 + 12 / ranks, rel=1e-4)
    assert held[2].device / numbers == pytest.approx(2 + 4 / ranks + 12 / ranks, rel=1e-4)
    assert held[3].device / numbers == pytest.approx(18 / ranks, rel=1e-2)
    offloaded = footprint.trained(LLAMA2_7B, ZeroConfig(2, "bfloat16", True, False), ranks)
    assert offloaded.device / numbers == pytest.approx(2, rel=1e-4)
    assert offloaded.host / numbers == pytest.approx(16 / ranks, rel=1e-4)


def test_a_cache_is_what_the_paper_s_models_have() -> None:
    assert footprint.cache(LLAMA2_7B, "bfloat16", 4096) == 2 << 30
