"""Train a reward model on preference pairs: one scalar a response, by ranking (paper 3.2.2).

Starts from a chat checkpoint, so that the reward model knows what the policy knows; the language head gives way to a
scalar head. Helpfulness and safety are two models (`kind`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llamatrain import checkpoint, config
from llamatrain.data.packing import Batch
from llamatrain.distributed import rank, world_size
from llamatrain.engine import Engine
from llamatrain.fit import fit
from llamatrain.run import Run
from llamatrain.start import scalar_engine
from llamatrain.tokenizer import Tokenizer

from .config import RewardConfig
from .data import Pair, PairBatches, load_pairs, mix_pairs, most_tokens
from .losses import auxiliary_loss, ranking_loss
from .scoring import score_pairs, scored, scores_at_ends, summary


def train(cfg: RewardConfig) -> None:
    """Train a reward model on preference pairs."""
    assert cfg.margin is not None
    assert cfg.auxiliary_weight is not None
    start = checkpoint.resolve(cfg.checkpoint, "sft")
    tokenizer = checkpoint.load_tokenizer(start)
    max_length = most_tokens(start, cfg.max_length)
    pairs, held_out, notes = load(cfg, tokenizer, max_length)
    batches = PairBatches(
        pairs,
        margin=cfg.margin,
        max_length=max_length,
        batch_pairs=cfg.batch_pairs,
        micro_batch_size=cfg.micro_batch_size,
        seed=cfg.run.seed,
        rank=rank(),
        world_size=world_size(),
    )
    steps = max(1, round(cfg.epochs * batches.steps_per_epoch))
    data, fixed = {"train": batches.fingerprint}, ("batch_pairs",)
    with Run(cfg.run, "reward", cfg, {"checkpoint": start}, data, fixed) as run:
        for note in notes:
            run.print(note)
        run.print(
            f"{len(pairs):,} pairs, {steps:,} steps of {cfg.batch_pairs} pairs, margin {cfg.margin}, "
            f"auxiliary weight {cfg.auxiliary_weight:g}"
        )
        engine = scalar_engine(start, cfg.optim, cfg.zero, steps, cfg.run.seed, cfg.activation_checkpointing)

        def loss(model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return pair_loss(model, batch, cfg.auxiliary_weight or 0.0)

        def evaluate() -> dict[str, float]:
            return held_out_metrics(engine, held_out, max_length, cfg.micro_batch_size)

        fit(engine, batches, loss, run, steps, tokenizer, evaluate if held_out else None)


def load(cfg: RewardConfig, tokenizer: Tokenizer, max_length: int) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return training pairs (own and mixed in), held-out pairs, and what was skipped, in words."""
    notes: list[str] = []

    def read(paths: list[str], kind: str | None) -> list[Pair]:
        found: list[Pair] = []
        for path in paths:
            pairs, skipped = load_pairs(path, tokenizer, max_length, cfg.too_long, kind)
            found += pairs
            if skipped:
                notes.append(
                    f"{path}: {skipped} of {len(pairs) + skipped} pairs skipped, longer than {max_length} tokens"
                )
        return found

    own, other = read(cfg.train, cfg.kind), read(cfg.mix, None)
    pairs = mix_pairs(own, other, cfg.mix_share, cfg.run.seed)
    drawn = len(pairs) - len(own)
    if drawn:
        share = f"{drawn / len(pairs):.0%} of the whole"
        notes.append(f"{len(own):,} {cfg.kind} pairs and {drawn:,} drawn from {len(other):,} others ({share})")
    return pairs, read(cfg.eval, None), notes


def pair_loss(model: Any, batch: Batch, auxiliary_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the summed loss of a micro-batch's pairs, and what is logged beside it (summed alike)."""
    scores = scores_at_ends(model, batch)  # (m, 2)
    chosen, rejected = scores.unbind(-1)
    ranking = ranking_loss(chosen, rejected, batch["margin"]).sum()
    sums = {"accuracy": (chosen > rejected).float().sum(), "margin": (chosen - rejected).sum()}
    if not auxiliary_weight:
        return ranking, sums
    auxiliary = auxiliary_loss(scores, batch["safe"]).sum()
    return ranking + auxiliary_weight * auxiliary, {**sums, "ranking": ranking, "auxiliary": auxiliary}


def held_out_metrics(engine: Engine, pairs: list[Pair], max_length: int, micro_batch_size: int) -> dict[str, float]:
    """Return held-out accuracy (all, by rating, by safety bin), the plain ranking loss and the threshold's figures."""
    engine.module.eval()
    scores = score_pairs(engine, pairs, max_length, micro_batch_size)
    engine.module.train()
    gaps = torch.tensor(scores).diff(dim=-1).neg()
    loss = torch.nn.functional.softplus(-gaps).mean()
    return {"eval/loss": float(loss), **summary(scored(pairs, scores))}


if __name__ == "__main__":
    config.main("reward", RewardConfig, train)
