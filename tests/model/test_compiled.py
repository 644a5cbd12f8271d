"""What torch.compile is given computes what runs without it, forwards and backwards, traced as it would be compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import pytest
import torch

from llamatrain.engine.learning import compile_layers
from llamatrain.losses import language_model_loss
from llamatrain.model import blocks
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.settings import ZeroConfig

LENGTH = 80  # a block of queries and a part


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torch.compile trace all that it would compile, in one graph, and run it as it stands: no C++ compiler, no wait."""
    plain = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", plain)
    yield
    torch._dynamo.reset()


def step(model: Transformer, segmented: bool) -> list[torch.Tensor]:
    """Return the loss of a batch and every gradient."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size or 0, (2, LENGTH), generator=generator)
    segments = torch.ones_like(ids)
    if segmented:
        segments[0, 30:] = 2
        segments[1, 70:] = 0
    batch = {"input_ids": ids, "position_ids": torch.arange(LENGTH).expand(2, LENGTH), "segment_ids": segments}
    loss, _ = language_model_loss(model, {**batch, "loss_mask": segments > 0})
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("n_kv_heads", "segmented", "recomputed"), [(4, False, "none"), (2, True, "none"), (2, False, "selective")]
)
def test_a_compiled_step_equals_an_eager_one(
    model_config: ModelConfig, n_kv_heads: int, segmented: bool, recomputed: str
) -> None:
    config = dataclasses.replace(model_config, n_kv_heads=n_kv_heads, activation_checkpointing=recomputed)
    model = Transformer(config, seed=0)
    expected = step(model, segmented)
    compile_layers(model, ZeroConfig(0, "float32", False, False))
    torch._dynamo.utils.counters.clear()
    for _ in range(2):
        for ours, theirs in zip(step(model, segmented), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # of both layers, of both steps


@pytest.mark.parametrize("group", [1, 2])
def test_the_names_that_the_compiler_sees_agree_with_attention(group: int) -> None:
    q, k, v = (torch.randn(2, 2, 100, n, 8, requires_grad=True) for n in (group, 1, 1))
    hidden = [torch.zeros(64, 64), torch.zeros(36, 36)]
    names = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.llamatrain.mix, (q, k, v, hidden), test_utils=names)
    mixed, *kept = torch.ops.llamatrain.mix(q.detach(), k.detach(), v.detach(), hidden)
    arguments = (torch.randn_like(mixed), q.detach(), k.detach(), v.detach(), kept)
    torch.library.opcheck(torch.ops.llamatrain.mix_backward, arguments, test_utils=names[:2])
    plain = torch.empty_like(mixed)
    blocks._mix(q.detach(), k.detach(), v.detach(), hidden, plain)
    assert plain.equal(mixed)
