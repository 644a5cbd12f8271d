"""Perplexity and bits per byte of a language model on held-out text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from llamatrain import distributed, heartbeat, hf_folder
from llamatrain.data.sequences import TokenBatches
from llamatrain.errors import UserError
from llamatrain.losses import Batch, language_model_loss, text_measures
from llamatrain.model.transformer import Transformer
from llamatrain.prefetch import on_device


def held_out(corpus: str) -> Path:
    """Return the folder of the held-out tokens: eval/ of a run of the program corpus, or the folder itself."""
    folder = Path(corpus)
    return folder / "eval" if (folder / "eval").is_dir() else folder


def perplexity(
    folder: Path,
    corpus: Path,
    micro_batch_size: int,
    isolate: bool,
    limit: int | None,
    dtype: torch.dtype,
    tokenizer: str | None = None,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return loss (nats per token), perplexity and bits per byte of a checkpoint; all ranks take part.

    Of every source the first `limit` sequences are read, and stand for all of it. All ranks call `on_batch` together
    before each batch.
    """
    model = hf_folder.load_model(folder, distributed.device(), dtype)
    if not isinstance(model, Transformer):
        raise UserError(f"checkpoint {folder} is a reward model; need a language model for perplexity")
    batches = TokenBatches(
        corpus,
        seq_len=model.config.max_seq_len,
        batch_size=micro_batch_size * distributed.world_size(),
        micro_batch_size=micro_batch_size,
        seed=0,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        isolate=isolate,
        tokenizer=hf_folder.load_tokenizer(folder, tokenizer),
        held_out=True,
    )
    model.eval()
    total, targets = 0.0, 0
    for source in batches.sources:
        count = batches.targets(source)  # of all its sequences, whatever the limit: its weight in the total
        total += mean_loss(model, batches.source_batches(source.name, limit), on_batch) * count
        targets += count
    return text_measures(total / targets, targets, batches.manifest.text_bytes)


@torch.no_grad()
def mean_loss(model: torch.nn.Module, batches: Iterable[Batch], on_batch: Callable[[], None] = lambda: None) -> float:
    """Return the mean loss of all target tokens, over all ranks."""
    total = weight = 0.0
    for batch in batches:
        heartbeat.beat("forward")
        on_batch()
        loss, _ = language_model_loss(model, on_device(batch, distributed.device()))
        total += float(loss.double())
        weight += float(batch["weight"])
    return distributed.all_reduce_sum(total) / max(distributed.all_reduce_sum(weight), 1.0)
