"""Results by checkpoint and settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.results import FOLDER, Results
from llamatrain.errors import UserError
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint
from tests.conftest import tiny_config

SETTINGS = {"limit": 10, "harness": "0.4.13"}


def saved(folder: Path, tokenizer: Tokenizer, seed: int) -> Path:
    return save_checkpoint(folder, Transformer(tiny_config(), seed=seed), tokenizer)


def test_a_result_is_known_by_its_checkpoint_task_and_settings(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The same weights elsewhere are the same checkpoint; other weights, tasks and settings are not."""
    first = Results(tmp_path / FOLDER, saved(tmp_path / "first", tokenizer, 1))
    assert first.known("piqa", SETTINGS) is None
    first.keep("piqa", SETTINGS, {"acc": 0.5})
    assert first.known("piqa", dict(reversed(SETTINGS.items()))) == {"acc": 0.5}
    assert Results(first.folder, saved(tmp_path / "again", tokenizer, 1)).known("piqa", SETTINGS) == {"acc": 0.5}
    assert Results(first.folder, saved(tmp_path / "other", tokenizer, 2)).known("piqa", SETTINGS) is None
    assert first.known("siqa", SETTINGS) is None
    assert first.known("piqa", {**SETTINGS, "limit": None}) is None


def test_a_damaged_result_is_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """It is neither measured again over nor believed."""
    results = Results(tmp_path, saved(tmp_path / "model", tokenizer, 1))
    results.keep("piqa", SETTINGS, {})
    results.path("piqa", SETTINGS).write_text("{")
    with pytest.raises(UserError, match=r"piqa-\w+\.json.*delete it to measure again"):
        results.known("piqa", SETTINGS)
