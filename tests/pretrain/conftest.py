"""A corpus that the tests of pretraining share."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.data.rows import write_rows
from llamatrain.tokenizer import Tokenizer
from tests.conftest import TEXT
from tests.corpora import write_corpus


@pytest.fixture
def corpus(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A corpus of some two thousand tokens with held-out documents."""
    documents = [{"text": line, "source": "test"} for line in TEXT.splitlines()]
    for part, rows in (("train", documents * 8), ("eval", documents[:3])):
        write_rows(tmp_path / f"{part}.jsonl", rows)
        write_corpus(tmp_path / "corpus" / part, [str(tmp_path / f"{part}.jsonl")], tokenizer)
    return tmp_path / "corpus"
