"""A finished pipeline with invented numbers, its models tiny and real."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer

from ...checkpoints import save_checkpoint
from ...launch.synthetic import make

SAID = """\
developers: Example Lab
contact: models@example.org
license: apache-2.0
license_file: terms.txt
languages: [en]
intended_use: To be looked at.
out_of_scope: Everything else.
data: A small invented world, without any person's data.
limits: It knows its world and nothing else.
"""


@pytest.fixture
def run(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """Return a pipeline's folder with models, and with what people say of them."""
    folder = make(tmp_path / "demo")
    for stage in ("pretrain", "sft", "rs", "ppo"):
        save_checkpoint(folder / stage / "final", Transformer(model_config, seed=0), tokenizer)
    (folder / "card.yaml").write_text(SAID)
    (folder / "terms.txt").write_text("Do as you like.\n")
    return folder
