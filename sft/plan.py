"""What fine-tuning and distillation will be, as `llamatrain new` fits them to data and machine. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from llamatrain.fitting import Fitted, Sizes, Value, rhythm, sampling
from llamatrain.given import Given, written
from llamatrain.planning import HeldOut, Planner, Rows, Work, evaluations, packed_rows, saves

from .config import ConversationConfig, DistillConfig, GAttConfig, RecallConfig, SFTConfig

DISTILLED = 200  # prompts, at most
TALKS, TURNS = 200, 6  # dialogues of Ghost Attention, and their turns
MEASURED = 50  # dialogues in which recall is measured


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


def _fit_gatt(size: Sizes) -> Fitted:
    talks = int(min(size.dialogues, TALKS))
    values = [
        Value(f"max_dialogues={talks}", "answered turn by turn, where the pipeline's gatt asks for it"),
        Value(f"max_turns={TURNS}", "of each"),
        Value(f"sampling.max_new_tokens={size.answer}", "nine of ten written answers are shorter"),
    ]
    return Fitted(values, talks * TURNS * size.written)


def _fit_recall(size: Sizes) -> Fitted:
    values = [
        Value(f"max_dialogues={MEASURED}", "held-out dialogues, joined until they have so many turns"),
        Value(f"sampling.max_new_tokens={size.answer}", "nine of ten written answers are shorter"),
    ]
    return Fitted(values, MEASURED * 20 * size.written)


FITS = {"sft": _fit_sft, "distill": _fit_distill, "gatt": _fit_gatt, "recall": _fit_recall}


def _plan_sft(cfg: SFTConfig, given: Given) -> Work:
    model = replace(given.model(cfg.checkpoint), activation_checkpointing=cfg.activation_checkpointing)
    length, batch, rows = cfg.max_length or model.max_seq_len, cfg.batch_sequences, given.rows(cfg.train, "dialogue")
    packed = packed_rows(rows, length) / (1 - cfg.replay_fraction)
    steps, held_out = max(1, round(cfg.epochs * packed / batch)), given.rows(cfg.eval, "dialogue")
    # Answers to held-out prompts beside it, all at once on rank 0.
    answers = min(cfg.samples_kept, round(held_out.count)) if cfg.samples_every else 0
    return Work(
        model,
        cfg.zero.dtype,
        cfg.zero,
        batch,
        length,
        cfg.micro_batch_size,
        segments=True,
        stays=answers > 0,
        at_once=answers or None,
        step_tokens=batch * length,
        prompt_tokens=held_out.tokens / 2,
        written_tokens=written(cfg.sampling.max_new_tokens),
        held_out=HeldOut(
            evaluations(cfg.run, steps) * packed_rows(held_out, length) * length,
            answers,
            math.ceil(steps / cfg.samples_every) if answers else 0,
            alone=answers > 0,
        ),
        makes={"final": model},
        **saves(cfg.run, steps),
    )


def _plan_distill(cfg: DistillConfig, given: Given) -> Work:
    """Two answers to each adversarial prompt, which the safety model reads; adversarial may be all prompts."""
    prompts, model = given.rows(cfg.prompts, "prompt"), given.model(cfg.checkpoint)
    pairs = min(prompts.count, cfg.max_prompts or prompts.count) * cfg.samples_per_prompt
    answer = written(cfg.sampling.max_new_tokens)
    row = min(prompts.tokens + answer, model.max_seq_len)
    return Work(
        model,
        cfg.dtype,
        whole=2,
        at_once=cfg.generation_batch_size,
        sampled=2 * pairs,
        prompt_tokens=prompts.tokens,
        written_tokens=answer,
        read_tokens=2 * pairs * row,
        makes={"distilled.jsonl": Rows(pairs, row)},
    )


def _plan_gatt(cfg: GAttConfig, given: Given) -> Work:
    """Each dialogue up to a turn between min_turns and max_turns, where it has so many; a row of each."""
    talks = _talks(cfg, given)
    rows = talks.count * cfg.rows_per_dialogue
    return _spoken(cfg, given, talks, (cfg.min_turns + cfg.max_turns) / 2, {"gatt.jsonl": Rows(rows, talks.tokens)})


def _plan_recall(cfg: RecallConfig, given: Given) -> Work:
    return _spoken(cfg, given, _talks(cfg, given), max(cfg.turns), {})


def _talks(cfg: ConversationConfig, given: Given) -> Rows:
    rows = given.rows(cfg.dialogues, "dialogue")
    return Rows(min(rows.count, cfg.max_dialogues or rows.count), rows.tokens)


def _spoken(cfg: ConversationConfig, given: Given, talks: Rows, turns: float, makes: Mapping[str, Rows]) -> Work:
    model = given.model(cfg.checkpoint)
    return Work(
        model,
        cfg.dtype,
        whole=1,
        at_once=cfg.generation_batch_size,
        sampled=round(talks.count * turns),
        prompt_tokens=talks.tokens / 2,  # on the way through a dialogue
        written_tokens=written(cfg.sampling.max_new_tokens),
        makes=dict(makes),
    )


PLANS: dict[str, Planner] = {"sft": _plan_sft, "distill": _plan_distill, "gatt": _plan_gatt, "recall": _plan_recall}
