"""What reward models will be, as `llamatrain new` fits them to data and machine. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from llamatrain.fitting import PAIRS_TO_RATE, Fitted, Sizes, Value, rhythm
from llamatrain.model.config import ModelConfig
from llamatrain.planning import Planner, Work

from .config import RewardConfig


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


def _plan_reward(cfg: RewardConfig, model: ModelConfig) -> Work:
    model = replace(model, activation_checkpointing=cfg.activation_checkpointing)
    pair = 2 * (cfg.max_length or model.max_seq_len)
    zero, size = cfg.zero, cfg.micro_batch_size
    return Work(model, zero.dtype, zero, cfg.batch_pairs, pair, size, learned=0, segments=True)


PLANS: dict[str, Planner] = {"reward": _plan_reward}
