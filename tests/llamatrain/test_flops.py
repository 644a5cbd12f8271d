"""Model FLOPs: the two conventions, and the utilisation that the paper's GPU hours speak of."""

from __future__ import annotations

import pytest

from llamatrain.config.compose import compose_dict
from llamatrain.flops import Utilisation, flops_per_token
from llamatrain.model.config import ModelConfig

PARAMETERS = 6_738_415_616


def test_conventions() -> None:
    model = ModelConfig(**compose_dict("pretrain", ["model=llama2_7b"])["model"])
    assert flops_per_token(PARAMETERS, model, 4096, attention=False) == 6 * PARAMETERS
    square = 12 * 32 * 4096 * 4096
    assert flops_per_token(PARAMETERS, model, 4096, attention=True) == 6 * PARAMETERS + square
    assert Utilisation.of(PARAMETERS, model, 4096, None, 8) is None
    # 2e12 tokens in 184,320 hours of an A100 (paper 2.2.1, table 2)
    speed = 2e12 / (184_320 * 3600)
    found = Utilisation.of(PARAMETERS, model, 4096, 312.0, 8)
    assert found is not None
    metrics = found.metrics(8 * speed)
    assert metrics["train/mfu"] == pytest.approx(0.39, abs=0.005)
    assert metrics["train/mfu_attention"] == pytest.approx(metrics["train/mfu"] * (1 + square / 6 / PARAMETERS))
