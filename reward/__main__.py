"""Train a reward model on preference pairs: one scalar per response, by ranking (paper 3.2.2).

Starts from a chat checkpoint, so that the reward model knows what the policy knows; a scalar head replaces the language
head. Helpfulness and safety are two models (`kind`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llamatrain import checkpoint, hf_folder
from llamatrain.config.program import main
from llamatrain.data.cache import UNKEPT, Cache
from llamatrain.data.faults import FAULTS
from llamatrain.data.packing import Batch
from llamatrain.data.skipped import BadRows
from llamatrain.distributed import rank, world_size
from llamatrain.engine.learning import Engine
from llamatrain.fit import fit
from llamatrain.footprint import ModelCounts
from llamatrain.length import check_length
from llamatrain.outlook import told
from llamatrain.planning import saves
from llamatrain.progress import counted
from llamatrain.responses.pairs import Pair, Pairs, Picked, score_pairs, scores_at_ends
from llamatrain.run import Run
from llamatrain.shares import split_in_words
from llamatrain.start import rows_at_once, scalar_engine
from llamatrain.tokenizer import Tokenizer

from .config import PROGRAMS, RewardConfig
from .data import PairBatches, load_pairs, mix_pairs, most_tokens
from .losses import auxiliary_loss, centring_loss, ranking_loss
from .mix import OffTopic
from .plan import PLANS
from .scoring import score_means, score_statistics, scored, summary

LOSS = ("margin", "auxiliary_weight", "center_weight")  # what the loss is: a half-trained run keeps it
CENTER_WEIGHT = 0.01  # of a model that no safe/unsafe labels give a zero
UNLABELLED = (
    "warning: auxiliary_weight={:g} has no effect: no pair has chosen_safe or rejected_safe, so nothing separates safe from "
    "unsafe responses"
)
MEASURED = 256  # training pairs whose scores are measured where none are held out


def train(cfg: RewardConfig) -> None:
    """Train a reward model on preference pairs."""
    assert cfg.margin is not None
    assert cfg.auxiliary_weight is not None
    start = checkpoint.resolve(cfg.checkpoint, "sft")
    tokenizer = hf_folder.load_tokenizer(start, cfg.tokenizer)
    max_length = most_tokens(start, cfg.max_length)
    cfg.micro_batch_size = size = pairs_at_once(cfg, start, world_size())
    data = load(cfg, tokenizer, max_length, Cache.of(cfg.run))
    labelled = count_labelled(data.pairs)
    cfg.center_weight = centering(cfg, labelled)
    steps = total_steps(cfg, len(data.pairs))  # of one epoch in the paper (3.2.2): training longer can overfit
    batches = PairBatches(
        data.pairs,
        margin=cfg.margin,
        max_length=max_length,
        batch_pairs=cfg.batch_pairs,
        micro_batch_size=size,
        seed=cfg.run.seed,
        rank=rank(),
        world_size=world_size(),
    )
    fingerprints, fixed = {"train": batches.fingerprint}, ("batch_pairs", *LOSS)
    then = PROGRAMS["reward"].then
    with Run(cfg.run, "reward", cfg, {"checkpoint": start}, fingerprints, fixed, then=then) as run:
        run.print(plan(cfg, data, labelled, steps, world_size()))
        checkpointing = cfg.activation_checkpointing
        engine = scalar_engine(start, cfg.optim, cfg.zero, steps, cfg.run.seed, checkpointing, run.resumes())

        def loss(model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return pair_loss(model, batch, cfg.auxiliary_weight or 0.0, cfg.center_weight or 0.0)

        def evaluate() -> dict[str, float]:
            metrics, run.found["scores"] = held_out_metrics(engine, data, max_length, size)
            return {**data.counts, **metrics}

        fit(engine, batches, loss, run, steps, tokenizer, evaluate)


def total_steps(cfg: RewardConfig, pairs: int) -> int:
    """Return the optimizer steps of the epochs, at least one."""
    check_length(("batch_pairs", cfg.batch_pairs), pairs, "training pairs", cfg.epochs, ("epochs",), cfg.run.given)
    return max(1, round(cfg.epochs * pairs / cfg.batch_pairs))


def plan(cfg: RewardConfig, data: Preferences, labelled: int, steps: int, ranks: int) -> str:
    """Say in words what will be trained on."""
    assert cfg.micro_batch_size is not None
    epochs = steps * cfg.batch_pairs / len(data.pairs)
    vain = cfg.auxiliary_weight and not labelled
    return "\n".join(
        [
            *data.notes,
            f"{counted(len(data.pairs), 'pair')}, {counted(steps, 'step')} of {cfg.batch_pairs} "
            f"{split_in_words(cfg.batch_pairs, cfg.micro_batch_size, ranks)}: {counted(epochs, 'epoch', '.3g')}, "
            f"margin {cfg.margin}, auxiliary weight {cfg.auxiliary_weight:g} "
            f"({counted(labelled, 'pair')} labelled safe or unsafe), centering weight {cfg.center_weight:g}",
            *([UNLABELLED.format(cfg.auxiliary_weight)] if vain else []),
        ]
    )


def dry_run(cfg: RewardConfig, ranks: int | None) -> str:
    """Return the plan for so many ranks (None: those of the launcher); nothing is written."""
    ranks = ranks or world_size()
    start = checkpoint.resolve(cfg.checkpoint, "sft")
    cfg.micro_batch_size = pairs_at_once(cfg, start, ranks)
    tokenizer, max_length = hf_folder.load_tokenizer(start, cfg.tokenizer), most_tokens(start, cfg.max_length)
    data = load(cfg, tokenizer, max_length, Cache.of(cfg.run, keep=False))
    labelled = count_labelled(data.pairs)
    cfg.center_weight = centering(cfg, labelled)
    steps = total_steps(cfg, len(data.pairs))
    return "\n".join(
        [plan(cfg, data, labelled, steps, ranks), told(PLANS["reward"], cfg, ranks, **saves(cfg.run, steps))]
    )


def pairs_at_once(cfg: RewardConfig, start: Path, ranks: int) -> int:
    """Return the micro-batch size."""
    return rows_at_once(
        cfg, start, cfg.batch_pairs, 2 * most_tokens(start, cfg.max_length), ranks, ModelCounts(scalars=1), learned=0
    )


def count_labelled(pairs: Sequence[Pair]) -> int:
    """Return how many pairs say of a response whether it is safe."""
    return sum(pair.chosen_safe is not None or pair.rejected_safe is not None for pair in pairs)


def centering(cfg: RewardConfig, labelled: int) -> float:
    """Return the weight of the centring term: as configured, else 0 where labelled pairs give the scores their zero."""
    if cfg.center_weight is not None:
        return cfg.center_weight
    return 0.0 if cfg.auxiliary_weight and labelled else CENTER_WEIGHT


@dataclass
class Preferences:
    """Training pairs (own and mixed in) and held-out ones, what was left out in words, and how many of each."""

    pairs: Sequence[Pair]
    held_out: Sequence[Pair]
    notes: list[str]
    counts: dict[str, float]


def load(cfg: RewardConfig, tokenizer: Tokenizer, max_length: int, cached: Cache = UNKEPT) -> Preferences:
    """Read the pairs to train on and to measure."""
    assert cfg.mix_share is not None
    notes: list[str] = []
    bad = BadRows(cfg.bad_rows)
    left_out: Counter[str] = Counter()

    def read(paths: list[str], kind: str | None) -> Sequence[Pair]:
        found: list[Pairs] = []
        for path in paths:
            pairs, dropped = load_pairs(path, tokenizer, max_length, cfg.too_long, kind, bad, cached)
            found.append(pairs)
            left_out.update(dropped)
            if dropped:
                notes.append(dropped.lines(path, len(pairs)))
        return Picked(found)

    own, other = read(cfg.train, cfg.kind), read(cfg.mix, None)
    pairs = mix_pairs(own, other, cfg.mix_share, cfg.run.seed)
    drawn = len(pairs) - len(own)
    if cfg.off_topic and cfg.kind == "helpfulness":  # refusing another misdeed is as safe
        beside = OffTopic(own, round(cfg.off_topic * len(own)), cfg.run.seed, max_length)
        notes.append(f"{len(beside):,} pairs with a response to another prompt")
        pairs = Picked([pairs, beside])
    if drawn:
        share = f"{drawn / (len(own) + drawn):.0%} of the total"
        notes.append(f"{len(own):,} {cfg.kind} pairs and {drawn:,} drawn from {len(other):,} others ({share})")
    held_out = read(cfg.eval, None)
    bad.say(notes.append)
    counts = {"reward/own_pairs": len(own), "reward/mixed_pairs": drawn}
    counts |= {f"reward/left_out_{why}": left_out[why] for why in FAULTS}
    return Preferences(pairs, held_out, notes, {name: float(count) for name, count in counts.items()})


def pair_loss(
    model: Any, batch: Batch, auxiliary_weight: float, center_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the summed loss of a micro-batch's pairs, and what is logged beside it (summed alike)."""
    scores = scores_at_ends(model, batch)  # (m, 2)
    chosen, rejected = scores.unbind(-1)  # (m,) each
    loss = ranking = ranking_loss(chosen, rejected, batch["margin"]).sum()
    sums = {
        "accuracy": (chosen > rejected).float().sum(),
        "margin": (chosen - rejected).sum(),
        "score": scores.mean(-1).sum(),
        "ranking": ranking,
    }
    if auxiliary_weight:
        sums["auxiliary"] = auxiliary_loss(scores, batch["safe"]).sum()
        loss = loss + auxiliary_weight * sums["auxiliary"]
    if center_weight:
        sums["centring"] = centring_loss(chosen, rejected).sum()
        loss = loss + center_weight * sums["centring"]
    return loss, sums


def held_out_metrics(
    engine: Engine, data: Preferences, max_length: int, micro_batch_size: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return held-out accuracy (all, by rating, by safety bin), the plain ranking loss, the threshold's figures and mean
    scores; without held-out pairs the mean scores of some training pairs alone. And how these scores are distributed.
    """
    pairs = data.held_out or data.pairs[:MEASURED]
    engine.module.eval()
    scores = score_pairs(engine, pairs, max_length, micro_batch_size)
    engine.module.train()
    results = scored(pairs, scores)
    distribution = {"of": "held-out pairs" if data.held_out else "training pairs", **score_statistics(results)}
    if not data.held_out:
        return score_means(results), distribution
    gaps = torch.tensor(scores).diff(dim=-1).neg()  # (pairs, 1): chosen - rejected
    loss = torch.nn.functional.softplus(-gaps).mean()
    return {"eval/loss": float(loss), **summary(results)}, distribution


if __name__ == "__main__":
    main("reward", RewardConfig, train, plan=dry_run)
