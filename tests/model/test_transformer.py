"""The transformer against transformers' Llama, and against itself by another way."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from llamatrain import kernels, linear
from llamatrain.errors import UserError
from llamatrain.model import attention
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.optim import kind_of
from tests.model import stories260k


def wide(config: ModelConfig, seed: int = 0, **changes: object) -> Transformer:
    """A model whose logits are far from uniform, so that mistakes show."""
    return Transformer(dataclasses.replace(config, init_std=0.2, **changes), seed)  # type: ignore[arg-type]


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 400, shape)


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_equal_transformers(model_config: ModelConfig, n_kv_heads: int, tied: bool) -> None:
    ours = wide(model_config, n_kv_heads=n_kv_heads, tie_embeddings=tied)
    torch.nn.init.normal_(ours.model.norm.weight)
    theirs = LlamaForCausalLM(LlamaConfig(**ours.config.to_hf(scalar_head=False)))
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if tied else [], [])
    ids = tokens(3, 40)
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(ours(ids), expected, atol=1e-5, rtol=1e-5)
        back = Transformer(ModelConfig.from_hf(theirs.config.to_dict()), None)
        back.load_state_dict({name: x for name, x in theirs.state_dict().items() if not (tied and "lm_head" in name)})
        torch.testing.assert_close(back(ids), expected, atol=1e-5, rtol=1e-5)
    assert {**ours.config.__dict__} == {**back.config.__dict__}


def test_logits_equal_transformers_in_bfloat16(model_config: ModelConfig) -> None:
    ours = wide(model_config).bfloat16()
    theirs = LlamaForCausalLM(LlamaConfig(**ours.config.to_hf(scalar_head=False))).bfloat16()
    theirs.load_state_dict(ours.state_dict())
    ids = tokens(2, 30)
    with torch.no_grad():
        logits = ours(ids)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, theirs(ids).logits.float(), atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("llama2_7b", 6_738_415_616),
        ("llama2_13b", 13_015_864_320),
        ("llama2_34b", 33_743_970_304),
        ("llama2_70b", 68_976_648_192),
    ],
)
def test_parameter_counts_are_the_papers(repository: Path, preset: str, parameters: int) -> None:
    assert count(repository, preset) == parameters


def test_small_presets_have_the_sizes_they_say(repository: Path) -> None:
    assert 0.9e6 < count(repository, "tiny", 1024) < 1.2e6
    assert 3.2e6 < count(repository, "small", 2048) < 3.6e6
    assert 8e6 < count(repository, "stories", 4096) < 8.6e6


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_without_making_the_model(model_config: ModelConfig, tied: bool) -> None:
    config = dataclasses.replace(model_config, n_kv_heads=2, tie_embeddings=tied)
    counted: Counter[str] = Counter()
    for name, parameter in Transformer(config, 0).named_parameters():
        counted[kind_of(name)] += parameter.numel()
    assert {kind: number for kind, number in config.parameters_by_kind.items() if number} == counted
    assert config.parameters == counted.total()
    assert config.decoder_parameters == counted.total() - counted["head"]


def count(repository: Path, preset: str, vocab_size: int = 32000) -> int:
    values = yaml.safe_load((repository / "configs/model" / f"{preset}.yaml").read_text())
    with torch.device("meta"):
        model = Transformer(ModelConfig(**values).with_vocabulary(vocab_size), seed=1)
    return sum(parameter.numel() for parameter in model.parameters())


def test_initialisation_is_by_seed_and_name(model_config: ModelConfig) -> None:
    first, again, other = (Transformer(model_config, seed).state_dict() for seed in (1, 1, 2))
    deeper = Transformer(dataclasses.replace(model_config, n_layers=3), 1).state_dict()
    for name, weight in first.items():
        assert torch.equal(weight, again[name])
        if "norm" in name:
            assert torch.equal(weight, torch.ones_like(weight))
            continue
        assert not torch.equal(weight, other[name])
        residual = "o_proj" in name or "down_proj" in name
        std = 0.02 / (math.sqrt(2 * model_config.n_layers) if residual else 1)
        assert abs(weight.std().item() / std - 1) < 5 / math.sqrt(2 * weight.numel())
        assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel())
        if not residual:
            assert torch.equal(weight, deeper[name])
    assert len({weight.sum().item() for name, weight in first.items() if "norm" not in name}) == 16


def test_checkpointing_leaves_gradients_unchanged(model_config: ModelConfig) -> None:
    ids, segments = tokens(2, 30), torch.ones(2, 30, dtype=torch.int64)
    segments[0, 12:] = 2
    gradients = []
    kept = []
    for kind in ("none", "selective", "full"):
        model = wide(model_config, activation_checkpointing=kind)
        held = 0

        def count(x: torch.Tensor) -> torch.Tensor:
            nonlocal held
            held += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            loss = model(ids, segment_ids=segments).logsumexp(-1).sum()
        kept.append(held)
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
        torch.testing.assert_close(gradients[2][name], gradient)
    assert kept[0] > kept[2]


@pytest.mark.skipif(not kernels.has_onednn(), reason="the products counted are oneDNN's")
@pytest.mark.parametrize(("kind", "again"), [("none", 0), ("selective", 1), ("full", 4)])
def test_checkpointing_computes_again_what_it_says(model_config: ModelConfig, kind: str, again: int) -> None:
    """Products by oneDNN in a layer's backward pass: four for gradients (a weight's is MKL's), and those again."""
    kernels.choose("onednn", {})
    products = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal products
            products += op is torch.ops.mkldnn._linear_pointwise.default
            return op(*args, **(kwargs or {}))

    model = wide(model_config, activation_checkpointing=kind, hidden_dim=96)
    hidden = model.model(tokens(2, 30))
    with Count():
        hidden.square().sum().backward()
    layers = model_config.n_layers
    first = 4 * layers  # the embeddings are trained, so the first layer's inputs have gradients too
    # The last product of a layer, down_proj, is not needed again: its result is only added.
    assert first + (again - (kind == "full")) * layers <= products <= first + again * layers


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_packed_segments_equal_separate_forwards(model_config: ModelConfig, n_kv_heads: int) -> None:
    model = wide(model_config, n_kv_heads=n_kv_heads)
    rows = [[7, 12, 4], [20], [5, 5, 9]]  # segment lengths; what is left of 24 is padding
    ids = tokens(3, 24)
    positions, segments = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, lengths in enumerate(rows):
        at = 0
        for i, length in enumerate(lengths):
            positions[row, at : at + length] = torch.arange(length)
            segments[row, at : at + length] = i + 1
            at += length
    packed = model(ids, positions, segments)
    assert packed.isfinite().all()
    for row, lengths in enumerate(rows):
        at = 0
        for length in lengths:
            alone = model(ids[row : row + 1, at : at + length])[0]
            torch.testing.assert_close(packed[row, at : at + length], alone, atol=1e-5, rtol=1e-5)
            at += length


def test_padding_leaves_logits_and_gradients_unchanged(model_config: ModelConfig) -> None:
    ids = tokens(1, 20)
    gradients = []
    for left, right in ((0, 0), (0, 5), (5, 0)):
        model = wide(model_config)
        padded = torch.nn.functional.pad(ids, (left, right))
        segments = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
        positions = (torch.arange(padded.shape[1]) - left).clamp(min=0)[None]
        model(padded, positions, segments)[:, left : left + 20].logsumexp(-1).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [4, 30])
def test_select_equals_all_logits(model_config: ModelConfig, count: int) -> None:
    """A few positions go through the last feed-forward alone, most of them with all."""
    model = wide(model_config)
    ids, select = tokens(2, 16), torch.randperm(32)[:count].sort().values
    results = []
    for logits in (model(ids, select=select), model(ids).flatten(0, 1)[select]):
        slopes = torch.autograd.grad(logits.logsumexp(-1).sum(), tuple(model.parameters()))
        results.append([logits.detach(), *slopes])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert model(ids, select=select[:0]).shape == (0, 400)


def test_weights_side_by_side_or_apart_give_the_same(model_config: ModelConfig) -> None:
    """As the constructor lays them they are one product; loaded apart, as ZeRO-3 gathers them, several."""
    results, ids = [], tokens(2, 16)
    for apart in (False, True):
        model = wide(model_config)
        if apart:
            for parameter in model.parameters():
                parameter.data = parameter.data.clone()
        attention_weights = [getattr(model.model.layers[0].self_attn, f"{x}_proj").weight for x in "qkv"]
        assert (linear.side_by_side(tuple(attention_weights), 0) is None) is apart
        logits = model(ids)
        logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 30}, "model.n_heads"),
        ({"dim": 36}, "model.n_heads"),
        ({"n_kv_heads": 3}, "model.n_kv_heads"),
        ({"n_layers": 0}, "model.n_layers=0"),
        ({"vocab_size": -1}, "model.vocab_size=-1"),
        ({"activation_checkpointing": "some"}, "model.activation_checkpointing=some"),
    ],
)
def test_impossible_shape_is_refused(model_config: ModelConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(model_config, **changes)  # type: ignore[arg-type]


def test_vocabulary_comes_from_the_tokenizer(model_config: ModelConfig) -> None:
    open_config = dataclasses.replace(model_config, vocab_size=None)
    assert open_config.with_vocabulary(300).vocab_size == 300
    assert model_config.with_vocabulary(300).vocab_size == 400
    with pytest.raises(UserError, match="need 500 or more"):
        model_config.with_vocabulary(500)
    with pytest.raises(UserError, match=r"model\.vocab_size=null"):
        Transformer(open_config, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "rope_type is 'llama3'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_size": None}, "x/config.json: hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size is '64', need a whole number"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, need a number above 0"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4: need a multiple of num_key_value_heads=3"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers is 100000, need .* at most 10,000"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000, need"),
        ({"rope_parameters": "default"}, "rope_parameters is 'default', need an object"),
        ({"rope_parameters": {"rope_theta": "1e4"}}, "rope_parameters.rope_theta is '1e4', need a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', need true or false"),
    ],
)
def test_foreign_config_is_refused(model_config: ModelConfig, changes: dict[str, object], message: str) -> None:
    config = model_config.to_hf(scalar_head=False) | changes
    with pytest.raises(UserError, match=message):
        ModelConfig.from_hf({key: value for key, value in config.items() if value is not None}, "x/config.json")


def test_config_of_transformers_4_is_read(model_config: ModelConfig) -> None:
    config = model_config.to_hf(scalar_head=False) | {"rope_theta": 5e5, "rope_scaling": None}
    for key in ("rope_parameters", "num_key_value_heads", "head_dim"):
        del config[key]
    read = ModelConfig.from_hf(config)
    assert (read.rope_theta, read.n_kv_heads) == (5e5, 4)


def test_stories260k_logits_equal_transformers(shared_data: Path) -> None:
    ours = stories260k.read(shared_data / "stories260K").model
    theirs = LlamaForCausalLM(LlamaConfig(**ours.config.to_hf(scalar_head=False)))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    ids = torch.randint(0, 512, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("n_kv_heads", [4, 2])
@pytest.mark.parametrize("segmented", [False, True])
def test_attention_in_blocks_equals_torchs(
    monkeypatch: pytest.MonkeyPatch, model_config: ModelConfig, n_kv_heads: int, segmented: bool
) -> None:
    """Rows of 150 positions are two blocks and a part; the kernel of torch, with a mask in one, is the reference."""
    ids = tokens(2, 150)
    segments = torch.ones_like(ids)
    if segmented:
        segments[0, 70:] = 2
        segments[1, 140:] = 0
    results = []
    monkeypatch.setattr(attention, "worth_a_line", lambda _: False)
    for longest, masked_rows in ((0, 512), (512, 512), (0, 40)):
        monkeypatch.setattr(attention, "_LONGEST", longest)
        monkeypatch.setattr(attention, "_MASKED_ROWS", masked_rows)
        model = wide(model_config, n_kv_heads=n_kv_heads, max_seq_len=150)
        logits = model(ids, segment_ids=segments)
        logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    expected, *others = results
    for found in others:
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
