"""Engines that start from a checkpoint hold its weights, all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.settings import OptimConfig, ZeroConfig
from llamatrain.start import language_engine, scalar_engine
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint

OPTIM = OptimConfig(1e-3, [0.9, 0.95], 1e-5, 0.1, 1.0, "cosine", 0, 0.0, 0.1)
ZERO = ZeroConfig(stage=0, dtype="float32", offload_optimizer=False, offload_parameters=False)


@pytest.fixture
def chat(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """A language model's checkpoint."""
    return save_checkpoint(tmp_path / "chat", Transformer(model_config, seed=1), tokenizer)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    return all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)


def test_language_engine_holds_the_weights(chat: Path, model_config: ModelConfig) -> None:
    engine = language_engine(chat, OPTIM, ZERO, 10, "full")
    assert same(engine.module, Transformer(model_config, seed=1))
    assert engine.module.config.activation_checkpointing == "full"


def test_scalar_engine_puts_a_new_head_on_a_language_model(chat: Path, model_config: ModelConfig) -> None:
    engine = scalar_engine(chat, OPTIM, ZERO, 10, seed=5)
    fresh = ScalarModel(model_config, 5, Transformer(model_config, seed=1).model)
    assert same(engine.module, fresh)


def test_scalar_engine_goes_on_from_a_scalar_model(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    model = ScalarModel(model_config, seed=2)
    folder = save_checkpoint(tmp_path / "reward", model, tokenizer)
    assert same(scalar_engine(folder, OPTIM, ZERO, 10, seed=5).module, model)
    with pytest.raises(UserError, match="is a reward model; need a language model"):
        language_engine(folder, OPTIM, ZERO, 10)


def test_a_run_that_resumes_reads_and_draws_no_weights(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamatrain.start.load_weights", lambda _: 1 / 0)
    language_engine(chat, OPTIM, ZERO, 10, resumes=True)
    scalar_engine(chat, OPTIM, ZERO, 10, seed=5, resumes=True)
    with pytest.raises(ZeroDivisionError):
        language_engine(chat, OPTIM, ZERO, 10)


def test_missing_and_unknown_weights_are_named(chat: Path) -> None:
    weights = {name: weight.clone() for name, weight in load_file(chat / "model.safetensors").items()}
    norm = weights.pop("model.norm.weight")
    save_file(weights, chat / "model.safetensors")
    with pytest.raises(UserError, match=r"weight model\.norm\.weight is missing"):
        language_engine(chat, OPTIM, ZERO, 10)
    save_file({**weights, "model.norm.weight": norm, "model.extra": norm + 1}, chat / "model.safetensors")
    with pytest.raises(UserError, match=r"unknown weight model\.extra"):
        language_engine(chat, OPTIM, ZERO, 10)
