"""The schedule's shape and what decays."""

from __future__ import annotations

import pytest
import torch

from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.optim import parameter_groups
from llamatrain.settings import OptimConfig


def optim(**changes: object) -> OptimConfig:
    values: dict[str, object] = {
        "lr": 1.0,
        "betas": [0.9, 0.95],
        "eps": 1e-5,
        "weight_decay": 0.1,
        "grad_clip": 1.0,
        "schedule": "cosine",
        "warmup_steps": 10,
        "warmup_fraction": 0.0,
        "final_lr_fraction": 0.1,
    }
    return OptimConfig(**{**values, **changes})  # type: ignore[arg-type]


def test_cosine_with_warmup_and_floor() -> None:
    config = optim()
    rates = [config.lr_at(step, 110) for step in range(110)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[59] == pytest.approx(0.55)  # halfway down, halfway between 1 and 0.1
    assert rates[109] == pytest.approx(0.1) == config.lr_at(500, 110)


def test_constant_and_the_longer_warmup() -> None:
    config = optim(schedule="constant", warmup_steps=5, warmup_fraction=0.03)
    assert config.warmup(100) == 5 and config.warmup(1000) == 30
    assert config.lr_at(5, 100) == config.lr_at(99, 100) == 1.0


def test_norms_do_not_decay(model_config: ModelConfig) -> None:
    model = Transformer(model_config, seed=0)
    matrices, norms = parameter_groups(model, optim())
    assert matrices["weight_decay"] == 0.1 and norms["weight_decay"] == 0.0
    assert all(p.dim() == 1 for p in norms["params"]) and len(norms["params"]) == 2 * 2 + 1
    assert sum(p.numel() for g in (matrices, norms) for p in g["params"]) == sum(p.numel() for p in model.parameters())
    assert isinstance(matrices["params"][0], torch.nn.Parameter)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("lr", 0.0), ("betas", [0.9]), ("schedule", "linear"), ("final_lr_fraction", 2.0), ("warmup_fraction", 1.0)),
        *(("eps", 0.0), ("weight_decay", -0.1), ("grad_clip", -1.0), ("warmup_steps", -1)),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"optim\.{key}="):
        optim(**{key: value})
