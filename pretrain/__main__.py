"""Pretrain a model from scratch on a corpus of tokens (paper 2.2)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from llamatrain import config
from llamatrain.data.windows import TokenBatches
from llamatrain.distributed import rank, world_size
from llamatrain.engine import Engine, ZeroConfig, build
from llamatrain.errors import UserError, missing
from llamatrain.fit import evaluate_loss, fit, on_device
from llamatrain.flops import Utilisation
from llamatrain.losses import language_model_loss
from llamatrain.model import ModelConfig, Transformer
from llamatrain.optim import OptimConfig
from llamatrain.run import Run, RunConfig
from llamatrain.spikes import Guard, SpikeConfig
from llamatrain.tokenizer import Tokenizer

from .plan import check_batch, dry_run, epochs, parameters, plan


@dataclass
class PretrainConfig:
    """What is trained on, and how; configs/pretrain.yaml says what each key means."""

    run: RunConfig
    model: ModelConfig
    optim: OptimConfig
    zero: ZeroConfig
    corpus: str
    tokenizer: str
    tokens: float | None
    steps: int | None
    batch_tokens: int
    seq_len: int | None
    micro_batch_size: int
    isolate_documents: bool
    eval_windows: int | None
    skip_samples: list[int]
    spikes: SpikeConfig
    compile: bool
    mixture: dict[str, float] | None
    peak_tflops: float | None

    def __post_init__(self) -> None:
        """Check values, and that the length is given once."""
        self.seq_len = self.seq_len or self.model.max_seq_len
        if (self.tokens is None) == (self.steps is None):
            raise UserError(f"tokens={self.tokens} and steps={self.steps}: need one of them, the other null")
        if not 1 < self.seq_len <= self.model.max_seq_len:
            raise UserError(f"seq_len={self.seq_len}: need 2 to model.max_seq_len={self.model.max_seq_len}")
        if self.eval_windows is not None and self.eval_windows < 1:
            raise UserError(f"eval_windows={self.eval_windows}: need 1 or more, or null for all")
        if self.batch_tokens < self.seq_len or self.batch_tokens % self.seq_len:
            raise UserError(f"batch_tokens={self.batch_tokens}: need a multiple of seq_len={self.seq_len}")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise UserError(f"peak_tflops={self.peak_tflops}: need a number above 0, or null where it is not known")
        if self.spikes.enabled and self.run.keep == 1:
            raise UserError("run.keep=1: spikes.enabled=true needs 2 or more, as the newest may lie in the spike, or 0")
        if self.spikes.enabled and self.run.save_every == 0:
            raise UserError(
                "run.save_every=0: spikes.enabled=true needs 1 or more, as every spike would go back to step 0"
            )
        if self.total_steps < 1:
            raise UserError(
                f"tokens={self.tokens} steps={self.steps}: need at least one step, {self.batch_tokens} tokens"
            )

    @property
    def total_steps(self) -> int:
        """Return the optimizer steps; a last batch that would not be full is left out."""
        return self.steps if self.steps is not None else int((self.tokens or 0) // self.batch_tokens)


def train(cfg: PretrainConfig) -> None:
    """Pretrain a model from scratch on a corpus of tokens."""
    tokenizer = Tokenizer(cfg.tokenizer)
    model = cfg.model.with_vocabulary(tokenizer.vocab_size)
    batches, held_out = load(cfg, tokenizer)
    data, fixed = {"train": batches.fingerprint}, ("batch_tokens", "seq_len")
    with Run(cfg.run, "pretrain", cfg, data=data, fixed=fixed) as run:
        run.print(plan(cfg, model, world_size(), epochs(cfg, batches.manifest)))
        if held_out is None:
            run.print(f"{cfg.corpus} has no held-out documents: nothing is evaluated")
        seed = cfg.run.seed
        made = build(lambda: Transformer(model, seed), cfg.zero)
        engine = Engine(made, cfg.optim, cfg.zero, cfg.total_steps, cfg.compile)
        if cfg.compile:
            compile_ahead(engine, batches, run)

        def evaluate() -> dict[str, float]:
            assert held_out is not None
            return held_out_metrics(engine, held_out, cfg.eval_windows)

        fit(
            engine,
            batches,
            language_model_loss,
            run,
            cfg.total_steps,
            tokenizer,
            evaluate if held_out else None,
            Guard(cfg.spikes, batches, tokenizer),
            Utilisation.of(parameters(model), model, batches.seq_len, cfg.peak_tflops, world_size()),
        )


def load(cfg: PretrainConfig, tokenizer: Tokenizer) -> tuple[TokenBatches, TokenBatches | None]:
    """Return the training windows and, where the corpus has held-out documents, the held-out ones."""
    assert cfg.seq_len is not None
    folder, seq_len = Path(cfg.corpus), cfg.seq_len
    if not folder.is_dir():
        raise missing(folder, "corpus")

    def windows(part: str, rows: int, skip: list[int], mixture: dict[str, float] | None) -> TokenBatches:
        return TokenBatches(
            folder / part,
            seq_len=seq_len,
            batch_size=rows,
            micro_batch_size=cfg.micro_batch_size,
            seed=cfg.run.seed,
            rank=rank(),
            world_size=world_size(),
            isolate=cfg.isolate_documents,
            tokenizer=tokenizer,
            skip=skip,
            mixture=mixture,
            held_out=part == "eval",
        )

    check_batch(cfg, world_size())
    batches = windows("train", cfg.batch_tokens // seq_len, cfg.skip_samples, cfg.mixture)
    if not (folder / "eval").is_dir():
        return batches, None
    return batches, windows("eval", cfg.micro_batch_size * world_size(), [], {})


def compile_ahead(engine: Engine, batches: TokenBatches, run: Run) -> None:
    """Let torch.compile do its work on a first micro-batch, whose gradients count nothing, and say how long it took."""
    run.print("compiling the model ...")
    started = time.perf_counter()
    batch = on_device(batches.batch_at(0)[0], engine.device)
    engine.backward(language_model_loss(engine, batch)[0] * 0.0)
    run.print(f"compiled in {time.perf_counter() - started:.0f} s")


def held_out_metrics(engine: Engine, batches: TokenBatches, limit: int | None) -> dict[str, float]:
    """Return loss (nats a token), perplexity and bits per byte of the held-out documents, in all and by source.

    Of every source the first `limit` windows are read, and stand for all of it; in the totals it counts by its targets.
    """
    found: dict[str, float] = {}
    total, targets = 0.0, 0
    for source in batches.sources:
        count = batches.targets(source)
        if count < 1:  # nothing to predict
            continue
        loss = evaluate_loss(engine, batches.source_batches(source.name, limit), language_model_loss)["eval/loss"]
        found |= _measures(f"eval/{source.name}", loss, count, source.text_bytes)
        total, targets = total + loss * count, targets + count
    return {**_measures("eval", total / targets, targets, batches.manifest.text_bytes), **found}


def _measures(prefix: str, loss: float, targets: int, text_bytes: int) -> dict[str, float]:
    return {
        f"{prefix}/loss": loss,
        f"{prefix}/perplexity": math.exp(min(loss, 700.0)),
        f"{prefix}/bits_per_byte": loss / math.log(2) * targets / text_bytes,
    }


if __name__ == "__main__":
    config.main("pretrain", PretrainConfig, train, plan=dry_run)
