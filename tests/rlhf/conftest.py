"""Fixtures of rlhf's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.model.config import ModelConfig
from llamatrain.tokenizer import Tokenizer

from .worlds import make_world


@pytest.fixture
def world(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """Checkpoints and prompts of a tiny untrained world."""
    return make_world(tmp_path / "world", model_config, tokenizer)
