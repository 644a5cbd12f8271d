"""What fine-tuning and distillation will be, as `llamatrain new` fits them to data and machine. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from llamatrain.fitting import Fitted, Sizes, Value, rhythm, sampling
from llamatrain.model.config import ModelConfig
from llamatrain.planning import Planner, Work

from .config import DistillConfig, SFTConfig

DISTILLED = 200  # prompts, at most


def _fit_sft(size: Sizes) -> Fitted:
    steps = max(1, int(size.epochs * size.dialogues / size.batch_sequences))
    values = [
        Value(f"epochs={size.epochs:g}", "passes over the dialogues"),
        Value(f"batch_sequences={size.batch_sequences}", f"of about {max(1, size.dialogues):,.0f} packed rows"),
        Value(f"optim.lr={size.rate / 3:.2g}", "a third of pretraining's"),
        *rhythm(steps),
        Value(f"samples_every={max(1, steps // 4)}", "steps between answers to held-out prompts"),
        Value(
            f"sampling.max_new_tokens={size.answer}", "tokens of such an answer: nine of ten written ones are shorter"
        ),
    ]
    return Fitted(values, 1.2 * steps * size.batch_sequences * size.context * size.learned)


def _fit_distill(size: Sizes) -> Fitted:
    prompts = min(size.prompts or DISTILLED, DISTILLED)
    values = sampling(size, prompts, "adversarial prompts, answered twice, where the pipeline's distill asks for it")
    return Fitted(values, 2 * prompts * (size.written + size.pair_tokens * size.learned / 3))


FITS = {"sft": _fit_sft, "distill": _fit_distill}


def _plan_sft(cfg: SFTConfig, model: ModelConfig) -> Work:
    model = replace(model, activation_checkpointing=cfg.activation_checkpointing)
    length = cfg.max_length or model.max_seq_len
    return Work(model, cfg.zero.dtype, cfg.zero, cfg.batch_sequences, length, cfg.micro_batch_size, segments=True)


def _plan_distill(cfg: DistillConfig, model: ModelConfig) -> Work:
    return Work(model, cfg.dtype, whole=2)


PLANS: dict[str, Planner] = {"sft": _plan_sft, "distill": _plan_distill}
