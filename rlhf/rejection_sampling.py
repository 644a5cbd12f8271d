"""Rejection sampling: the best of K responses per prompt by the combined score, then fine-tuning on them (paper 3.2.3).

    1. sample K responses per prompt from `checkpoint`, and score them
    2. keep the best usable one of each prompt: best.jsonl
    3. fine-tune `base` on the SFT set, these and the best of all `earlier` rounds, for a constant number of steps

The paper starts each round's fine-tuning from the base model. Samples are a function of the seed, the prompt's id and
the sample's number, and finished chunks of them are kept, so an interrupted run ends with the same files and weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np

from llamatrain import distributed
from llamatrain.checkpoint import resolve
from llamatrain.config.program import main
from llamatrain.data.dialogues import DialogueBatches
from llamatrain.data.kinds import BestRow, DialogueRow, SampledRow
from llamatrain.data.order import shuffled
from llamatrain.data.rows import file_fingerprint, read_rows, write_rows
from llamatrain.data.shards import MANIFEST, read_manifest
from llamatrain.data.skipped import BadRows, warned
from llamatrain.errors import UserError
from llamatrain.fit import fit
from llamatrain.hf_folder import load_tokenizer
from llamatrain.length import check_length
from llamatrain.losses import language_model_loss
from llamatrain.model.config import load_config
from llamatrain.progress import counted
from llamatrain.responses.chunks import Chunks
from llamatrain.responses.config import GateConfig, logit
from llamatrain.responses.models import generated_at_once, sampled_and_scored_by, shared_context, shared_tokenizer
from llamatrain.responses.prompts import load_prompts
from llamatrain.responses.sampling import in_words, make_responses, response_metrics, write_responses
from llamatrain.responses.scoring import check_zero, require_zero, sigmoid
from llamatrain.run import Run
from llamatrain.shares import split_in_words
from llamatrain.start import language_engine, rows_at_once

from .config import PROGRAMS, RejectionSamplingConfig, noise_of

SAMPLED = (  # what the samples follow from, beside the models and the prompts
    *(f"sampling.{key}" for key in ("temperature", "top_p", "max_new_tokens")),
    *(f"gate.{key}" for key in ("safety_threshold", "unfinished_logit")),
    *("samples_per_prompt", "max_prompts", "too_long", "round", "dtype"),
)
FIXED = ("batch_sequences", "max_length", "sft_fraction", "replay_fraction", *SAMPLED)


def train(cfg: RejectionSamplingConfig) -> None:
    """Sample, keep the best, fine-tune on them."""
    parents = sampled_and_scored_by(cfg.checkpoint, cfg.helpfulness, cfg.safety)
    base = resolve(cfg.base, "pretrain")
    tokenizer = load_tokenizer(base, cfg.tokenizer)
    # What can be wrong with the fine-tuning shows before the long sampling.
    replay = Path(cfg.replay) / "train" if cfg.replay is not None else None
    if replay is not None:
        read_manifest(replay, tokenizer)
    max_length = row_length(cfg, base)
    cfg.micro_batch_size = size = rows_at_once(cfg, base, cfg.batch_sequences, max_length, distributed.world_size())
    cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, parents, cfg.dtype)
    bad = BadRows(cfg.bad_rows)
    sft, earlier = read_dialogues(cfg.sft_train, bad), read_dialogues(cfg.earlier, bad)
    made_from, then = {**parents, "base": base}, PROGRAMS["rejection_sampling"].then
    with Run(cfg.run, "rejection_sampling", cfg, made_from, fingerprints(cfg), FIXED, then=then) as run:
        bad.say(run.print)
        # 1. sample and score
        chunks = make_responses(run, cfg, parents, noise_of("rejection_sampling", cfg.round))

        # 2. keep the best
        metrics = keep_best(run, cfg, chunks)

        # 3. fine-tune
        best = read_dialogues([str(run.folder / "best.jsonl")])
        batches = DialogueBatches(
            training_rows([*best, *earlier], sft, cfg.sft_fraction, cfg.run.seed),
            tokenizer,
            max_length=max_length,
            batch_size=cfg.batch_sequences,
            micro_batch_size=size,
            seed=cfg.run.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            replay=replay,
            replay_fraction=cfg.replay_fraction,
        )
        announce(run, cfg, batches)
        checkpointing = cfg.activation_checkpointing
        engine = language_engine(base, cfg.optim, cfg.zero, cfg.steps, checkpointing, resumes=run.resumes())
        # The figures of the sampling stand in the line of every evaluation, the last step's included.
        fit(engine, batches, language_model_loss, run, cfg.steps, tokenizer, evaluate=lambda: metrics)


def keep_best(run: Run, cfg: RejectionSamplingConfig, chunks: Chunks[SampledRow]) -> dict[str, float]:
    """Write responses.jsonl and best.jsonl; return the sampling's metrics, on all ranks. UserError where none is kept."""
    metrics: dict[str, float] = {}
    problems: list[str] = []
    if run.is_main:
        write_responses(run.folder, chunks)
        write_rows(run.folder / "best.jsonl", best_rows(chunks))
        metrics = sampling_metrics(chunks, cfg.gate)
        problems = zero_problems(chunks, cfg.gate)
    # Also a barrier: the other ranks read best.jsonl next.
    metrics, problems = distributed.broadcast_object((metrics, problems))
    require_zero(problems, cfg.gate, run.print)
    run.print(f"{in_words('rs', metrics)}\n{best_in_words(metrics)}")
    if metrics["rs/kept"] == 0:
        raise UserError(
            "no prompt has a finished, non-empty response: raise sampling.max_new_tokens or train the checkpoint longer"
        )
    return metrics


def announce(run: Run, cfg: RejectionSamplingConfig, batches: DialogueBatches) -> None:
    """Print what is fine-tuned on; UserError where a length that nobody gave goes through the data too often."""
    epochs = cfg.steps / batches.steps_per_epoch
    epoch = batches.steps_per_epoch * cfg.batch_sequences
    batch = ("batch_sequences", cfg.batch_sequences)
    check_length(batch, epoch, "packed rows", epochs, ("steps",), cfg.run.given)
    line = f"fine-tuning {cfg.base} on {batches.counts['kept']} dialogues for {counted(epochs, 'epoch', '.2g')}, "
    line += split_in_words(cfg.batch_sequences, batches.micro_batch_size, batches.world_size)
    if skipped := batches.counts["skipped"]:
        line += f" ({skipped:,} skipped: longer than {batches.max_length} tokens)"
    run.print(warned(line, skipped, batches.counts["dialogues"]))


def dry_run(cfg: RejectionSamplingConfig, ranks: int | None) -> str:
    """Return the plan for so many ranks (None: those of the launcher); nothing is written."""
    ranks = ranks or distributed.world_size()
    parents, notes = sampled_and_scored_by(cfg.checkpoint, cfg.helpfulness, cfg.safety), list[str]()
    base = resolve(cfg.base, "pretrain")
    size = rows_at_once(cfg, base, cfg.batch_sequences, row_length(cfg, base), ranks)
    tokenizer, context, bad = shared_tokenizer(parents, cfg.tokenizer), shared_context(parents), BadRows(cfg.bad_rows)
    prompts = load_prompts(
        cfg.prompts,
        tokenizer,
        context,
        cfg.sampling.max_new_tokens,
        cfg.max_prompts,
        cfg.too_long,
        notes.append,
        bad,
    )
    left_out = BadRows(cfg.bad_rows)
    sft = len(read_dialogues(cfg.sft_train, left_out))
    left_out.say(notes.append)
    share = f"{cfg.sft_fraction:.0%} of them from" if cfg.sft_fraction is not None else "all of"
    notes += [
        f"{len(prompts):,} prompts x {cfg.samples_per_prompt} responses = {len(prompts) * cfg.samples_per_prompt:,}",
        f"{cfg.steps:,} steps of {cfg.batch_sequences} rows {split_in_words(cfg.batch_sequences, size, ranks)}, packed from "
        f"at most {len(prompts):,} best responses and dialogues, {share} the {sft:,} in sft_train; the number of epochs is known once the best are",
    ]
    return "\n".join(notes)


def row_length(cfg: RejectionSamplingConfig, base: Path) -> int:
    """Return the tokens of a packed row: the model's context, or less where asked for."""
    context = load_config(base)[0].max_seq_len
    if cfg.max_length is not None and not 1 < cfg.max_length <= context:
        raise UserError(f"max_length={cfg.max_length}: need 2 to {context}, the model's context, or null for all of it")
    return cfg.max_length or context


def fingerprints(cfg: RejectionSamplingConfig) -> dict[str, str]:
    """Return name -> hash of every file the run reads."""
    files = {f"prompts.{i}": file for i, file in enumerate(cfg.prompts)}
    files |= {f"sft_train.{i}": file for i, file in enumerate(cfg.sft_train)}
    files |= {f"earlier.{i}": file for i, file in enumerate(cfg.earlier)}
    if cfg.replay is not None:
        files["replay"] = str(Path(cfg.replay) / "train" / MANIFEST)
    return {name: file_fingerprint(file) for name, file in files.items()}


# --- the best of K -----------------------------------------------------------------------------------------------


def by_prompt(chunks: Chunks[SampledRow]) -> Iterator[list[SampledRow]]:
    """Yield the responses of each prompt."""
    for _, rows in groupby(chunks.rows(), key=lambda row: row["prompt_id"]):
        yield list(rows)


def best_of(rows: Sequence[SampledRow]) -> SampledRow | None:
    """Return the response with the highest combined score, the first of equals; None where none can be trained on.

    A response that was cut off would be trained as if it ended there, and an empty one teaches silence.
    """
    usable = [row for row in rows if row["finished"] and row["response"]]
    return max(usable, key=lambda row: row["raw"]["combined"], default=None)


def best_rows(chunks: Chunks[SampledRow]) -> Iterator[BestRow]:
    """Yield the best response of each prompt as a dialogue, with what made it the best.

    `loss: last`: the earlier answers of a prompt are somebody else's, and perhaps harmful.
    """
    for rows in by_prompt(chunks):
        best = best_of(rows)
        if best is not None:
            yield {
                "messages": [*best["messages"], {"role": "assistant", "content": best["response"]}],
                "source": best["raw"]["source"],
                "is_adversarial": best["is_adversarial"],
                "loss": "last",
                "prompt_id": best["prompt_id"],
                "sample": best["sample"],
                "helpfulness": best["helpfulness"],
                "safety_score": best["safety_score"],
                "combined": best["combined"],
                "gated": best["gated"],
            }


def expected_best(scores: Sequence[float], k: int) -> float:
    """Return the mean of the best of k over all choices of k among the scores."""
    ordered = sorted(scores)
    choices = math.comb(len(ordered), k)
    # Score i (from 0, rising) is the best of the choices that take it and k - 1 of the i below it.
    return sum(math.comb(i, k - 1) / choices * score for i, score in enumerate(ordered))


def zero_problems(chunks: Chunks[SampledRow], gate: GateConfig) -> list[str]:
    """Return what is wrong with the zeros of the reward models (`scoring.check_zero`), by the sampled responses."""
    helpfulness: list[float] = []
    safety: list[float] = []
    for row in chunks.rows():
        if row["is_adversarial"]:
            safety.append(row["raw"]["safety"])
        else:
            helpfulness.append(row["raw"]["helpfulness"])
    return check_zero(helpfulness, safety, gate)


def sampling_metrics(chunks: Chunks[SampledRow], gate: GateConfig) -> dict[str, float]:
    """Return mean and best scores in (0, 1), the best of 1, 2, 4, .. K (paper figure 7), and measures by kind of prompt.

    Those are the reward models' mean raw scores, the share that the gate calls unsafe (of harmless prompts: what it turns
    upside down), and the spread of the combined scores where it is 1 over all.
    """
    groups = list(by_prompt(chunks))
    flat = [row for rows in groups for row in rows]
    scores = [[sigmoid(row["raw"]["combined"]) for row in rows] for rows in groups]
    metrics = {
        **response_metrics("rs", flat),
        "rs/prompts": len(groups),
        "rs/kept": sum(best_of(rows) is not None for rows in groups),
        "rs/score_mean": fmean(fmean(own) for own in scores),
        "rs/score_best": fmean(max(own) for own in scores),
    }
    closed = logit(gate.safety_threshold)
    spread = pstdev(row["raw"]["combined"] for row in flat)
    for name, kind in (("harmless", False), ("adversarial", True)):
        raw = [row["raw"] for row in flat if row["is_adversarial"] is kind]
        if not raw:
            continue
        metrics[f"rs/helpfulness_logit_{name}"] = fmean(own["helpfulness"] for own in raw)
        metrics[f"rs/safety_logit_{name}"] = fmean(own["safety"] for own in raw)
        metrics[f"rs/gated_{name}"] = fmean(own["safety"] < closed for own in raw)
        # Below 1: whitened together with the other kind, this one would be learned with less strength (PPO's `whiten`).
        metrics[f"rs/whitened_spread_{name}"] = pstdev(own["combined"] for own in raw) / spread if spread else 0.0
    k, size = len(groups[0]), 1
    while size < k:
        metrics[f"rs/best_of_{size}"] = fmean(expected_best(own, size) for own in scores)
        size *= 2
    metrics[f"rs/best_of_{k}"] = metrics["rs/score_best"]
    return metrics


def best_in_words(metrics: dict[str, float]) -> str:
    """Return for the terminal what keeping the best of K brings (the combined scores of `sampling_metrics`)."""
    prompts, kept = (f"{metrics[f'rs/{name}']:,.0f}" for name in ("prompts", "kept"))
    sizes = [key.removeprefix("rs/best_of_") for key in metrics if key.startswith("rs/best_of_")]
    scores = ", ".join(f"{size}: {metrics[f'rs/best_of_{size}']:.2f}" for size in sizes)
    return f"combined score of the best of {scores}; a best response kept for {kept} of {prompts} prompts"


# --- fine-tuning -------------------------------------------------------------------------------------------------


def read_dialogues(paths: Sequence[str], bad: BadRows | None = None) -> list[DialogueRow]:
    """Read dialogue files one after the other; bad rows go to `bad`."""
    return [row for path in paths for row in read_rows(path, DialogueRow, bad)]


def training_rows(
    chosen: list[DialogueRow], sft: list[DialogueRow], sft_fraction: float | None, seed: int
) -> list[DialogueRow]:
    """Return the dialogues to train on: the chosen samples, and the SFT set once or so many that they are its share."""
    if sft_fraction is None:
        return [*sft, *chosen]
    # f of all rows are f / (1 - f) times the others.
    count = round(sft_fraction / (1 - sft_fraction) * len(chosen))
    return [*draw(sft, count, seed), *chosen]


def draw(rows: list[DialogueRow], count: int, seed: int) -> list[DialogueRow]:
    """Draw rows without repetition, and again from all of them only once every one has been drawn."""
    return [rows[place] for place in shuffled(np.arange(count), len(rows), seed).tolist()]


if __name__ == "__main__":
    main("rejection_sampling", RejectionSamplingConfig, train, plan=dry_run)
