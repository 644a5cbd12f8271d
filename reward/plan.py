"""What reward models will be, as `llamatrain new` fits them to data and machine. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from llamatrain.fitting import PAIRS_TO_RATE, Fitted, Sizes, Value, rhythm
from llamatrain.footprint import ModelCounts
from llamatrain.given import Given
from llamatrain.planning import HeldOut, Light, Planner, Work, evaluations, saves

from .config import RewardConfig, RewardEvaluateConfig


def _fit_reward(size: Sizes) -> Fitted:
    rows = {kind: count for kind, count in size.pairs.items() if count}
    counts = ", ".join(f"{count:,} of {kind}" for kind, count in rows.items()) or "those that people will rate"
    batch = size.batch(min(rows.values(), default=PAIRS_TO_RATE) / 32, 64 if size.gpus else 16)
    steps = max(rows.values(), default=PAIRS_TO_RATE) // batch
    values = [
        Value(f"batch_pairs={batch}", f"pairs per update, of {counts}"),
        Value(f"optim.lr={size.rate / 10:.2g}", "a tenth of pretraining's"),
        *rhythm(steps),
    ]
    # Of folds, each model trains on all but one; a pair is two responses.
    share = (size.folds - 1) / size.folds if size.folds > 1 else 1.0
    seconds = {kind: share * count * 2 * size.pair_tokens * size.learned for kind, count in size.pairs.items()}
    return Fitted(values, fmean(seconds.values()), seconds)


def _fit_evaluate(size: Sizes) -> Fitted:
    # A forward pass alone is a third of training.
    return Fitted([], fmean(size.pairs_held_out.values()) * 2 * size.pair_tokens * size.learned / 3)


FITS = {"reward": _fit_reward, "reward.evaluate": _fit_evaluate}


def _plan_reward(cfg: RewardConfig, given: Given) -> Work:
    model = replace(given.model(cfg.checkpoint), activation_checkpointing=cfg.activation_checkpointing)
    longest, pairs = cfg.max_length or model.max_seq_len, given.rows(cfg.train, "preference")
    count = pairs.count / (1 - (cfg.mix_share or 0.0)) + pairs.count * cfg.off_topic * (cfg.kind == "helpfulness")
    steps, held_out = max(1, round(cfg.epochs * count / cfg.batch_pairs)), given.rows(cfg.eval, "preference")
    read = evaluations(cfg.run, steps) * held_out.count * 2 * min(held_out.tokens, longest)
    return Work(
        model,
        cfg.zero.dtype,
        cfg.zero,
        cfg.batch_pairs,
        2 * longest,
        cfg.micro_batch_size,
        models=ModelCounts(scalars=1),
        learned=0,
        segments=True,
        step_tokens=cfg.batch_pairs * 2 * min(pairs.tokens, longest),
        makes={"final": model},
        held_out=HeldOut(read),
        **saves(cfg.run, steps),
    )


def _plan_evaluate(cfg: RewardEvaluateConfig, given: Given) -> Work | Light:
    if cfg.checkpoint is None:  # it pools what others measured
        return Light()
    model, pairs = given.model(cfg.checkpoint), given.rows(cfg.preferences, "preference")
    longest = cfg.max_length or model.max_seq_len
    read = pairs.count * 2 * min(pairs.tokens, longest)
    return Work(model, cfg.dtype, tokens=longest, read_rows=2 * cfg.micro_batch_size, read_tokens=read)


PLANS: dict[str, Planner] = {"reward": _plan_reward, "reward.evaluate": _plan_evaluate}
