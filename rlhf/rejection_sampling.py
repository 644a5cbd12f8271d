"""Rejection sampling: the best of K responses per prompt by the combined score, then fine-tuning on them (paper 3.2.3).

    0. where asked for, try temperatures on some prompts, and take the best
    1. sample K responses per prompt from `checkpoint`, and score them
    2. keep the best usable one of each prompt: best.jsonl
    3. fine-tune `base` on the SFT set, these and the best of all `earlier` rounds, for a constant number of steps

The paper starts each round's fine-tuning from the base model. Samples are a function of the seed, the prompt's id and
the sample's number, and finished chunks of them are kept, so an interrupted run ends with the same files and weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llamatrain import distributed
from llamatrain.checkpoint import resolve
from llamatrain.config.program import main
from llamatrain.data.cache import Cache
from llamatrain.data.dialogues import DialogueBatches
from llamatrain.data.encoding import Encoding
from llamatrain.data.kinds import SampledRow
from llamatrain.data.order import shuffled
from llamatrain.data.rows import file_fingerprint, write_rows
from llamatrain.data.shards import MANIFEST, read_manifest
from llamatrain.data.skipped import BadRows, warned
from llamatrain.data.tokenized import Rows, of_sources
from llamatrain.errors import UserError
from llamatrain.fit import fit
from llamatrain.hf_folder import load_tokenizer
from llamatrain.length import check_length
from llamatrain.losses import language_model_loss
from llamatrain.model.config import load_config
from llamatrain.outlook import told
from llamatrain.progress import counted
from llamatrain.responses.chunks import Chunks
from llamatrain.responses.config import noise_of
from llamatrain.responses.models import generated_at_once, sampled_and_scored_by
from llamatrain.responses.sampling import in_words, load_prompts_to_answer, make_responses, write_responses
from llamatrain.responses.scoring import recorded_zeros, require_zero
from llamatrain.run import Run
from llamatrain.shares import split_in_words
from llamatrain.start import language_engine, rows_at_once

from .best_of import best_in_words, best_rows, sampling_metrics, zero_problems
from .config import PROGRAMS, RejectionSamplingConfig
from .plan import PLANS
from .temperatures import choose, trials_in_words

SAMPLED = (  # what the samples follow from, beside the models and the prompts
    *(f"sampling.{key}" for key in ("temperature", "top_p", "max_new_tokens")),
    *(f"gate.{key}" for key in ("models", "safety_threshold", "unfinished_logit")),
    *("samples_per_prompt", "try_temperatures", "trial_prompts", "max_prompts", "too_long", "round", "dtype"),
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
    bad, cached, how = BadRows(cfg.bad_rows), Cache.of(cfg.run), Encoding("dialogue", tokenizer, max_length)
    sft, earlier = (of_sources(sources, how, bad, cached) for sources in (cfg.sft_train, cfg.earlier))
    made_from, then = {**parents, "base": base}, PROGRAMS["rejection_sampling"].then
    with Run(cfg.run, "rejection_sampling", cfg, made_from, fingerprints(cfg), FIXED, then=then) as run:
        bad.say(run.print)
        # 0. the round's prompts, and the temperature that is best on some of them
        prompts = load_prompts_to_answer(cfg, parents, run.print, cfg.round)
        noise = noise_of("rejection_sampling", cfg.round)
        tuned, trials = choose(run, cfg, parents, prompts, noise)

        # 1. sample and score
        chunks = make_responses(run, tuned, parents, prompts, noise)

        # 2. keep the best
        metrics = {**trials, **keep_best(run, cfg, chunks)}

        # 3. fine-tune
        best = of_sources([str(run.folder / "best.jsonl")], how, BadRows(), cached)
        batches = DialogueBatches(
            training_rows(best + earlier, sft, cfg.sft_fraction, cfg.run.seed),
            tokenizer,
            max_length=max_length,
            batch_size=cfg.batch_sequences,
            micro_batch_size=size,
            seed=cfg.run.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            replay=replay,
            replay_fraction=cfg.replay_fraction,
            cached=cached,
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
        write_rows(run.folder / "best.jsonl", best_rows(chunks.rows()))
        metrics = sampling_metrics(chunks.rows(), cfg.gate)
        recorded = recorded_zeros({"helpfulness": cfg.helpfulness, "safety": cfg.safety})
        problems = zero_problems(chunks.rows(), cfg.gate, recorded)
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
    prompts = load_prompts_to_answer(cfg, parents, notes.append, cfg.round)
    left_out = BadRows(cfg.bad_rows)
    how = Encoding("dialogue", load_tokenizer(base, cfg.tokenizer), row_length(cfg, base))
    sft = len(of_sources(cfg.sft_train, how, left_out, Cache.of(cfg.run, keep=False)))
    left_out.say(notes.append)
    share = f"{cfg.sft_fraction:.0%} of them from" if cfg.sft_fraction is not None else "all of"
    notes += [
        *trials_in_words(cfg, len(prompts)),
        f"{len(prompts):,} prompts x {cfg.samples_per_prompt} responses = {len(prompts) * cfg.samples_per_prompt:,}",
        f"{cfg.steps:,} steps of {cfg.batch_sequences} rows {split_in_words(cfg.batch_sequences, size, ranks)}, packed from "
        f"at most {len(prompts):,} best responses and dialogues, {share} the {sft:,} in sft_train; the number of epochs is known once the best are",
    ]
    return "\n".join([*notes, told(PLANS["rejection_sampling"], cfg, ranks)])


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


# --- fine-tuning -------------------------------------------------------------------------------------------------


def training_rows(chosen: Rows, sft: Rows, sft_fraction: float | None, seed: int) -> Rows:
    """Return the dialogues to train on: the chosen samples, and the SFT set once or so many that they are its share."""
    if sft_fraction is None:
        return sft + chosen
    # f of all rows are f / (1 - f) times the others.
    count = round(sft_fraction / (1 - sft_fraction) * len(chosen))
    return draw(sft, count, seed) + chosen


def draw(rows: Rows, count: int, seed: int) -> Rows:
    """Draw rows without repetition, and again from all of them only once every one has been drawn."""
    return rows.take(shuffled(np.arange(count), len(rows), seed))


if __name__ == "__main__":
    main("rejection_sampling", RejectionSamplingConfig, train, plan=dry_run)
