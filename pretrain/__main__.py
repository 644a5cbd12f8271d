"""Pretrain a model on a corpus of tokens, from scratch (paper 2.2) or from a checkpoint on (continued pretraining).

A checkpoint brings its shape and its tokenizer, which must have made the corpus; optimizer and schedule start afresh.
"""

from __future__ import annotations

import time
from pathlib import Path

from llamatrain import checkpoint
from llamatrain.config.program import main
from llamatrain.data.sequences import TokenBatches
from llamatrain.data.shards import MANIFEST, read_manifest
from llamatrain.distributed import rank, world_size
from llamatrain.engine.learning import Engine
from llamatrain.engine.models import build
from llamatrain.errors import UserError, missing
from llamatrain.fit import evaluate_loss, fit
from llamatrain.flops import Utilisation
from llamatrain.hf_folder import load_tokenizer
from llamatrain.losses import language_model_loss, text_measures
from llamatrain.memory import micro_batch
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.outlook import told
from llamatrain.prefetch import on_device
from llamatrain.run import Run
from llamatrain.spikes import Guard
from llamatrain.start import language_engine
from llamatrain.tokenizer import Tokenizer

from .config import PROGRAMS, PretrainConfig
from .plan import PLANS, check_epochs, costs, epochs, plan


def train(cfg: PretrainConfig) -> None:
    """Pretrain a model on a corpus of tokens."""
    start, tokenizer = starting_point(cfg)
    model = cfg.model.with_vocabulary(tokenizer.vocab_size)
    cfg.micro_batch_size = rows_at_once(cfg, model, world_size())
    batches, held_out = load(cfg, tokenizer)
    check_epochs(cfg, batches.manifest)
    cfg.run.need_held_out(held_out is not None, "held-out documents in the corpus to stop early by")
    data, fixed = {"train": batches.fingerprint}, ("batch_tokens", "seq_len", "isolate_documents")
    parents, then = {"checkpoint": start} if start else {}, PROGRAMS["pretrain"].then
    with Run(cfg.run, "pretrain", cfg, parents, data, fixed, then=then) as run:
        run.print(start_told(start))
        run.print(plan(cfg, model, world_size(), batches.micro_batch_size, epochs(cfg, batches.manifest)))
        if held_out is None:
            run.print(f"{cfg.corpus} has no held-out documents: nothing is evaluated")
        engine = make_engine(cfg, model, start, run.resumes())
        if cfg.compile:
            compile_ahead(engine, batches, run)

        def evaluate() -> dict[str, float]:
            assert held_out is not None
            return held_out_metrics(engine, held_out, cfg.eval_sequences)

        fit(
            engine,
            batches,
            language_model_loss,
            run,
            cfg.total_steps,
            tokenizer,
            evaluate if held_out else None,
            Guard(cfg.spikes, batches, tokenizer),
            Utilisation.of(model.parameters, model, batches.seq_len, cfg.peak_tflops, world_size()),
            measure_start=start is not None,
        )


def starting_point(cfg: PretrainConfig) -> tuple[Path | None, Tokenizer]:
    """Return the checkpoint that is trained further, if any, and the tokenizer: that of the checkpoint, or the given one."""
    if cfg.checkpoint is not None:
        folder = checkpoint.resolve(cfg.checkpoint)
        return folder, load_tokenizer(folder, cfg.tokenizer)
    if cfg.tokenizer is None:
        raise UserError("tokenizer=null: need a tokenizer.model or the folder that holds it, or checkpoint=FOLDER")
    return None, Tokenizer(cfg.tokenizer)


def start_told(folder: Path | None) -> str:
    """Say where training begins."""
    if folder is None:
        return "start: random weights"
    made = ""
    if (folder / "llamatrain.json").is_file():
        lineage = checkpoint.lineage(folder)
        made = f" ({lineage['program']}, step {lineage['step']:,})"
    return f"start: the weights of {folder}{made}, with a fresh optimizer and a schedule of its own"


def rows_at_once(cfg: PretrainConfig, model: ModelConfig, ranks: int) -> int:
    """Return the micro-batch size."""
    assert cfg.seq_len is not None
    rows = cfg.batch_tokens // cfg.seq_len
    return micro_batch(cfg.micro_batch_size, rows, cfg.seq_len, model, cfg.zero, ranks)


def dry_run(cfg: PretrainConfig, ranks: int | None) -> str:
    """Return the whole plan for so many ranks (None: those of the launcher); nothing is written."""
    ranks = ranks or world_size()
    folder, pieces = _start(cfg)
    model = cfg.model.with_vocabulary(pieces)
    manifest = Path(cfg.corpus) / "train" / MANIFEST
    length = "; the corpus does not exist yet"
    if manifest.is_file():
        found = read_manifest(manifest.parent)
        check_epochs(cfg, found)
        length = epochs(cfg, found)
    size = rows_at_once(cfg, model, ranks)
    cfg.model, cfg.micro_batch_size = model, size
    memory, time, _ = told(PLANS["pretrain"], cfg, ranks).splitlines()
    shown = plan(cfg, model, ranks, size, length), costs(cfg, model, ranks), memory, time
    return "\n".join([start_told(folder), *shown])


def _start(cfg: PretrainConfig) -> tuple[Path | None, int]:
    """Return the checkpoint that is trained further, if any, and how many pieces its tokenizer has."""
    if cfg.checkpoint is None and (cfg.tokenizer is None or not Path(cfg.tokenizer).exists()):
        if cfg.model.vocab_size is None:
            there = "null" if cfg.tokenizer is None else f"{cfg.tokenizer}, which does not exist"
            raise UserError(f"model.vocab_size=null and tokenizer={there}: need one of them to count parameters")
        return None, cfg.model.vocab_size
    folder, tokenizer = starting_point(cfg)
    return folder, tokenizer.vocab_size


def make_engine(cfg: PretrainConfig, model: ModelConfig, start: Path | None, resumes: bool) -> Engine:
    """Return an engine that trains a model with fresh weights, or with those of a checkpoint; with `resumes` with none yet."""
    if start is not None:
        checkpointing = model.activation_checkpointing
        return language_engine(start, cfg.optim, cfg.zero, cfg.total_steps, checkpointing, cfg.compile, resumes)
    made = build(lambda: Transformer(model, None if resumes else cfg.run.seed), cfg.zero)
    return Engine(made, cfg.optim, cfg.zero, cfg.total_steps, cfg.compile)


def load(cfg: PretrainConfig, tokenizer: Tokenizer) -> tuple[TokenBatches, TokenBatches | None]:
    """Return the training sequences and, where the corpus has held-out documents, the held-out ones."""
    assert cfg.seq_len is not None
    assert cfg.micro_batch_size is not None
    folder, seq_len, size = Path(cfg.corpus), cfg.seq_len, cfg.micro_batch_size
    if not folder.is_dir():
        raise missing(folder, "corpus")

    def sequences(part: str, rows: int, skip: list[int], mixture: dict[str, float] | None) -> TokenBatches:
        return TokenBatches(
            folder / part,
            seq_len=seq_len,
            batch_size=rows,
            micro_batch_size=size,
            seed=cfg.run.seed,
            rank=rank(),
            world_size=world_size(),
            isolate=cfg.isolate_documents,
            tokenizer=tokenizer,
            skip=skip,
            mixture=mixture,
            held_out=part == "eval",
        )

    batches = sequences("train", cfg.batch_tokens // seq_len, cfg.skip_samples, cfg.mixture)
    if not (folder / "eval").is_dir():
        return batches, None
    return batches, sequences("eval", size * world_size(), [], {})


def compile_ahead(engine: Engine, batches: TokenBatches, run: Run) -> None:
    """Let torch.compile do its work on a first micro-batch, whose gradients count nothing, and say how long it took."""
    run.print("compiling the model ...")
    started = time.perf_counter()
    batch = on_device(batches.batch_at(0)[0], engine.device)
    engine.backward(language_model_loss(engine, batch)[0] * 0.0)
    run.print(f"compiled in {time.perf_counter() - started:.0f} s")


def held_out_metrics(engine: Engine, batches: TokenBatches, limit: int | None) -> dict[str, float]:
    """Return loss (nats per token), perplexity and bits per byte of the held-out documents, overall and by source.

    Of every source the first `limit` sequences are read, and stand for all of it; in the totals it counts by its targets.
    """
    found: dict[str, float] = {}
    total, targets = 0.0, 0
    for source in batches.sources:
        count = batches.targets(source)  # of all its sequences, whatever the limit: its weight in the total
        if count < 1:  # nothing to predict
            continue
        loss = evaluate_loss(engine, batches.source_batches(source.name, limit), language_model_loss)["eval/loss"]
        found |= _measures(f"eval/{source.name}", loss, count, source.text_bytes)
        total, targets = total + loss * count, targets + count
    return {**_measures("eval", total / targets, targets, batches.manifest.text_bytes), **found}


def _measures(prefix: str, loss: float, targets: int, text_bytes: int) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in text_measures(loss, targets, text_bytes).items()}


if __name__ == "__main__":
    main("pretrain", PretrainConfig, train, plan=dry_run)
