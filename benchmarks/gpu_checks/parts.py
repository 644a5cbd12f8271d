"""What the checks share: shapes, batches, a tokenizer, rows of figures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamatrain import distributed
from llamatrain.model.config import ModelConfig
from llamatrain.settings import OptimConfig, ZeroConfig
from llamatrain.tokenizer import Tokenizer

ON_GPU = torch.cuda.is_available()
SMALL = {"vocab_size": 512, "dim": 128, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 352}
TEXT = "The red fox lives in the forest near the river.\nA whale is bigger than a mouse, and a mouse is smaller.\n"


def figure(what: str, value: float | str, most: float | None = None, least: float | None = None) -> dict[str, Any]:
    """Return a row: a figure and, where it has any, its bounds."""
    need = [f"{word} {bound:g}" for word, bound in (("at least", least), ("at most", most)) if bound is not None]
    ok = isinstance(value, str) or ((least is None or value >= least) and (most is None or value <= most))
    return {"what": what, "value": value, "need": ", ".join(need), "ok": ok}


def folder() -> Path:
    """Return where checks leave what others read."""
    return Path(os.environ.get("GPU_CHECK_FOLDER") or tempfile.mkdtemp())


def shape(checkpointing: str = "none", max_seq_len: int = 256, **values: Any) -> ModelConfig:
    """Return a model's shape: a small one but for what is given."""
    return ModelConfig(
        **{**SMALL, "init_std": 0.02, **values},
        max_seq_len=max_seq_len,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        tie_embeddings=False,
        activation_checkpointing=checkpointing,
    )


def optim(lr: float = 1e-3) -> OptimConfig:
    """Return settings of AdamW."""
    return OptimConfig(
        lr=lr,
        betas=[0.9, 0.95],
        eps=1e-5,
        weight_decay=0.1,
        grad_clip=1.0,
        schedule="constant",
        warmup_steps=0,
        warmup_fraction=0.0,
        final_lr_fraction=1.0,
    )


def zero(stage: int, dtype: str, offload_optimizer: bool = False, offload_parameters: bool = False) -> ZeroConfig:
    """Return settings of ZeRO."""
    return ZeroConfig(
        stage=stage, dtype=dtype, offload_optimizer=offload_optimizer, offload_parameters=offload_parameters
    )


def rows(
    config: ModelConfig, count: int, length: int, segments: int, seed: int, answers: bool = False
) -> dict[str, Any]:
    """Return a batch of random tokens, `segments` documents of uneven length a row; `answers`: half of them are targets."""
    chance = torch.Generator().manual_seed(seed)
    assert config.vocab_size is not None
    ids = torch.randint(3, config.vocab_size, (count, length), generator=chance)
    starts = torch.rand(count, length, generator=chance).argsort(-1)[:, : segments - 1] if segments > 1 else None
    first = torch.zeros(count, length, dtype=torch.int64)
    if starts is not None:
        first.scatter_(1, starts.clamp(min=1), 1)
    ids_of_segments = first.cumsum(-1) + 1
    places = torch.arange(length).expand(count, -1)
    beginning = torch.where(first.bool() | (places == 0), places, 0).cummax(-1).values
    mask = torch.rand(count, length, generator=chance) < 0.5 if answers else torch.ones(count, length, dtype=torch.bool)
    batch: dict[str, Tensor] = {
        "input_ids": ids,
        "position_ids": places - beginning,
        "segment_ids": ids_of_segments,
        "loss_mask": mask,
    }
    from llamatrain.losses import next_token_select

    weight = float(len(next_token_select(batch)[0]))
    return {**batch, "weight": torch.tensor(weight)}


def tokenizer() -> Tokenizer:
    """Return a small tokenizer, the same on every call."""
    import sentencepiece

    path = Path(tempfile.mkdtemp()) / "tokenizer.model"
    with path.open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT.splitlines()),
            model_writer=model,
            model_type="bpe",
            vocab_size=300,
            character_coverage=0.99995,
            byte_fallback=True,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
        )
    return Tokenizer(path)


def device() -> torch.device:
    """Return this rank's device."""
    return distributed.device()


def wait() -> None:
    """Wait for the device."""
    if ON_GPU:
        torch.cuda.synchronize()
