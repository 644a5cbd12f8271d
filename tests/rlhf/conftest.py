"""Fixtures of rlhf's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.model.config import ModelConfig
from llamatrain.tokenizer import Tokenizer

from .worlds import make_world, write_prompts


@pytest.fixture
def world(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """Checkpoints and prompts of a tiny untrained world."""
    return make_world(tmp_path / "world", model_config, tokenizer)


@pytest.fixture
def prompts_eval(tmp_path: Path) -> str:
    """The override that names six held-out prompts; the world's own are the twelve before them."""
    write_prompts(tmp_path / "all.jsonl", 18)
    lines = (tmp_path / "all.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "held_out.jsonl").write_text("".join(lines[12:]))
    return f"prompts_eval=[{tmp_path / 'held_out.jsonl'}]"
