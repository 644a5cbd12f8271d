"""Fixtures that tests of every folder share, and their surroundings: one thread, no network, no accelerator."""

from __future__ import annotations

import os

# Before torch and the libraries that read these once, at import; programs that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("LLAMATRAIN_KERNELS", "mkl")  # tests of equality must not depend on a measurement

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from llamatrain import kernels

if TYPE_CHECKING:
    from llamatrain.model.config import ModelConfig
    from llamatrain.tokenizer import Tokenizer

HANG = 7200  # seconds
REPOSITORY = Path(__file__).resolve().parent.parent

TEXT = """\
The red fox lives in the forest near the river. The small bird sings in the old tree every morning.
Question: Where does the red fox live? Answer: The red fox lives in the forest near the river.
Anna has 12 apples and gives 5 of them to Tom. How many apples does she have now? She has 7 apples.
To bake bread, mix flour, water, salt and yeast. Let the dough rest for an hour, then bake it until it is brown.
Please tell me a short story about a kind bear. Once upon a time a kind bear shared honey with all of its friends.
I am sorry, I cannot help with that, because somebody could be hurt. Please talk to someone you trust.
A whale is bigger than a mouse. A mouse is smaller than a whale. Is a whale bigger than a mouse? Yes, it is.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bound slow tests against a hang alone: beside other work they take many times as long."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(HANG))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same random state and kernels, whatever ran before it."""
    torch.manual_seed(0)
    kernels.choose("mkl", {})


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data sets beside the repository or in LLAMATRAIN_SHARED; a test skips where they are not."""
    folder = Path(os.environ.get("LLAMATRAIN_SHARED", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: this test reads real data there (set LLAMATRAIN_SHARED to its folder)")
    return folder


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.model of 400 pieces with Llama 2's settings, trained once a session."""
    import sentencepiece

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    with path.open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.splitlines()),
            model_writer=model,
            model_type="bpe",
            vocab_size=400,
            character_coverage=0.99995,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
        )
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    """The tokenizer of `tokenizer_path`."""
    from llamatrain.tokenizer import Tokenizer

    return Tokenizer(tokenizer_path)


@pytest.fixture
def model_config() -> ModelConfig:
    """A model for the vocabulary of `tokenizer`."""
    return tiny_config()


def tiny_config() -> ModelConfig:
    """Return a model of some 60 thousand parameters with grouped-query attention."""
    from llamatrain.model.config import ModelConfig

    return ModelConfig(
        vocab_size=400,
        dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        hidden_dim=64,
        max_seq_len=128,
        rope_theta=10000.0,
        norm_eps=1e-5,
        tie_embeddings=False,
        init_std=0.02,
        activation_checkpointing="none",
    )
