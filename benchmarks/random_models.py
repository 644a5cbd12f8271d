"""Models of a size with random weights and a tokenizer trained for them, as folders that llamatrain and transformers load."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretraining_speed import SIZES
from recorded import ROOT

sys.path.insert(0, str(ROOT))


def config_of(size: str, context: int) -> Any:
    """Return the configuration of a size."""
    from llamatrain.model.config import ModelConfig

    shape: dict[str, Any] = {"n_kv_heads": SIZES[size]["n_heads"], **SIZES[size]}
    rest: dict[str, Any] = {"rope_theta": 10_000.0, "norm_eps": 1e-5, "init_std": 0.02}
    return ModelConfig(**shape, **rest, max_seq_len=context, activation_checkpointing="none")


def end_by_chance(model: Any, eos: int, logit: float) -> None:
    """Give EOS about this logit at every position, beside others of about 0: whether a response ends is chance alone.

    One hidden number is the same at every token, as all embeddings have it and no layer adds to it. EOS's row of the head
    reads it.
    """
    weights = dict(model.named_parameters())
    embedding = weights["model.embed_tokens.weight"].data
    embedding[:, 0] = 10  # most of what there is, so that the last norm makes about sqrt(dim) of it
    for name, weight in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data[0] = 0
    head = weights.get("lm_head.weight")
    step = logit / embedding.shape[1] ** 0.5
    if head is None:  # tied: the others' rows hold it, too
        embedding[eos, 0] += step
    else:
        head.data[eos] = 0
        head.data[eos, 0] = step


def write_model(folder: Path, model: Any, scalar: bool) -> None:
    """Write a model beside the tokenizer that lies in the folder."""
    from safetensors.torch import save_file

    (folder / "config.json").write_text(json.dumps(model.config.to_hf(scalar_head=scalar)))
    weights = {name: value.detach().contiguous() for name, value in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_tokenizer(folder: Path, size: str, texts: Iterator[str]) -> Any:
    """Make the folder, and train a tokenizer of the size's vocabulary in it; return it."""
    from llamatrain import hf_tokenizer
    from llamatrain.config.compose import compose_dict
    from llamatrain.tokenizer import Tokenizer
    from pretrain.config import TrainerConfig
    from pretrain.tokenizer import train_model

    folder.mkdir()
    trainer = TrainerConfig(**compose_dict("tokenizer", ["run.name=x", "documents=[x]"])["trainer"])
    (folder / "tokenizer.model").write_bytes(train_model(texts, SIZES[size]["vocab_size"], trainer))
    tokenizer = Tokenizer(folder / "tokenizer.model")
    hf_tokenizer.save(tokenizer, folder)
    return tokenizer
