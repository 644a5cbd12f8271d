"""Fine-tune a base checkpoint on dialogues: the loss counts the answers only (paper 3.1).

Dialogues are packed into full rows, each seeing only itself. A share of pretraining text can be mixed in (`replay`): a
small model forgets what it knew without it.
"""

from __future__ import annotations

import math
from pathlib import Path

from llamatrain import checkpoint, hf_folder
from llamatrain.config.program import main
from llamatrain.data.cache import UNKEPT, Cache
from llamatrain.data.dialogues import DialogueBatches
from llamatrain.data.encoding import Encoding
from llamatrain.data.skipped import BadRows, warned
from llamatrain.data.tokenized import of_sources
from llamatrain.distributed import rank, world_size
from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.fit import evaluate_loss, fit
from llamatrain.length import check_length
from llamatrain.losses import language_model_loss
from llamatrain.model.config import load_config
from llamatrain.outlook import told
from llamatrain.planning import saves
from llamatrain.progress import counted
from llamatrain.run import Run
from llamatrain.shares import split_in_words
from llamatrain.start import language_engine, rows_at_once
from llamatrain.tokenizer import Tokenizer

from .config import PROGRAMS, SFTConfig
from .plan import PLANS
from .samples import Samples


def train(cfg: SFTConfig) -> None:
    """Fine-tune a base checkpoint on dialogues."""
    start = checkpoint.resolve(cfg.checkpoint, "pretrain")
    tokenizer = hf_folder.load_tokenizer(start, cfg.tokenizer)
    bad = BadRows(cfg.bad_rows)
    max_length = context(start, cfg.max_length)
    cfg.micro_batch_size = rows_at_once(cfg, start, cfg.batch_sequences, max_length, world_size())
    batches, held_out = load(cfg, tokenizer, max_length, bad, Cache.of(cfg.run))
    steps = total_steps(cfg, batches)
    data, fixed = {"train": batches.fingerprint}, ("batch_sequences", "max_length", "isolate_documents")
    with Run(cfg.run, "sft", cfg, {"checkpoint": start}, data, fixed, then=PROGRAMS["sft"].then) as run:
        bad.say(run.print)
        run.print(plan(cfg, batches, steps, world_size()))
        checkpointing = cfg.activation_checkpointing
        engine = language_engine(start, cfg.optim, cfg.zero, steps, checkpointing, resumes=run.resumes())

        def evaluate() -> dict[str, float]:
            """Return how many dialogues are trained on and how many too long ones are not, and held-out metrics."""
            counts = {"sft/dialogues": batches.counts["kept"], "sft/skipped": batches.counts["skipped"]}
            return {**counts, **(held_out_metrics(engine, held_out) if held_out else {})}

        samples = Samples(cfg, engine, tokenizer, load_config(start)[0].max_seq_len, run, steps)
        fit(engine, batches, language_model_loss, run, steps, tokenizer, evaluate, samples=samples.write)


def total_steps(cfg: SFTConfig, batches: DialogueBatches) -> int:
    """Return the optimizer steps of the epochs, at least one."""
    epoch = batches.steps_per_epoch * cfg.batch_sequences
    check_length(("batch_sequences", cfg.batch_sequences), epoch, "packed rows", cfg.epochs, ("epochs",), cfg.run.given)
    return max(1, round(cfg.epochs * batches.steps_per_epoch))


def dry_run(cfg: SFTConfig, ranks: int | None) -> str:
    """Return the plan for so many ranks (None: those of the launcher); nothing is written."""
    ranks = ranks or world_size()
    start = checkpoint.resolve(cfg.checkpoint, "pretrain")
    max_length = context(start, cfg.max_length)
    cfg.micro_batch_size = rows_at_once(cfg, start, cfg.batch_sequences, max_length, ranks)
    tokenizer, bad, cached = (
        hf_folder.load_tokenizer(start, cfg.tokenizer),
        BadRows(cfg.bad_rows),
        Cache.of(cfg.run, keep=False),
    )
    batches, _ = load(cfg, tokenizer, max_length, bad, cached)
    steps = total_steps(cfg, batches)
    lines = list[str]()
    bad.say(lines.append)
    planned = told(PLANS["sft"], cfg, ranks, **saves(cfg.run, steps))
    return "\n".join([*lines, plan(cfg, batches, steps, ranks), planned])


def context(start: Path, max_length: int | None) -> int:
    """Return the tokens of a packed row: the model's context, or less where asked for."""
    longest = load_config(start)[0].max_seq_len
    if max_length is not None and not 1 < max_length <= longest:
        raise UserError(f"max_length={max_length}: need 2 to {longest}, the model's context, or null for all of it")
    return max_length or longest


def load(
    cfg: SFTConfig, tokenizer: Tokenizer, max_length: int, bad: BadRows | None = None, cached: Cache = UNKEPT
) -> tuple[DialogueBatches, DialogueBatches | None]:
    """Return the training batches and, where there are eval files, the held-out ones; bad rows go to `bad`."""
    size, bad = cfg.micro_batch_size, bad or BadRows()
    assert size is not None
    how = Encoding("dialogue", tokenizer, max_length, cfg.loss, drop_turns=cfg.too_long == "drop_turns")  # type: ignore[arg-type]

    def packed(paths: list[str], rows: int, replay: str | None, replay_fraction: float) -> DialogueBatches:
        return DialogueBatches(
            of_sources(paths, how, bad, cached),
            tokenizer,
            max_length=max_length,
            batch_size=rows,
            micro_batch_size=size,
            seed=cfg.run.seed,
            rank=rank(),
            world_size=world_size(),
            too_long=cfg.too_long,  # type: ignore[arg-type]
            isolate=cfg.isolate_documents,
            replay=replay,
            replay_fraction=replay_fraction,
            cached=cached,
        )

    replay = str(Path(cfg.replay) / "train") if cfg.replay else None
    batches = packed(cfg.train, cfg.batch_sequences, replay, cfg.replay_fraction)
    return batches, packed(cfg.eval, size * world_size(), None, 0.0) if cfg.eval else None


def plan(cfg: SFTConfig, batches: DialogueBatches, steps: int, ranks: int) -> str:
    """Say in words what will be trained on."""
    assert cfg.micro_batch_size is not None
    counts = batches.counts
    lost = [f"{counts[key]:,} {key}" for key in ("skipped", "shortened") if counts[key]]
    notes = f" ({', '.join(lost)}: longer than {batches.max_length} tokens)" if lost else ""
    replay = f", {cfg.replay_fraction:.0%} of them pretraining text" if cfg.replay else ""
    trained = (
        f"{counted(counts['kept'], 'dialogue')}{notes}: {counts['tokens']:,} tokens, {counts['target_tokens']:,} of them "
        f"answers, packed into {counted(counts['rows'], 'row')} of {batches.max_length}"
    )
    return (
        f"{warned(trained, counts['skipped'], counts['dialogues'])}\n"
        f"{counted(steps, 'step')} of {counted(cfg.batch_sequences, 'row')}{replay}: "
        f"{counted(steps / batches.steps_per_epoch, 'epoch', '.3g')}, "
        f"{split_in_words(cfg.batch_sequences, cfg.micro_batch_size, ranks)}"
    )


def held_out_metrics(engine: Engine, batches: DialogueBatches) -> dict[str, float]:
    """Return the loss and perplexity of held-out answers."""
    metrics = evaluate_loss(engine, batches.eval_batches(), language_model_loss)
    return {**metrics, "eval/perplexity": math.exp(min(metrics["eval/loss"], 700.0))}  # beyond, exp would overflow


if __name__ == "__main__":
    main("sft", SFTConfig, train, plan=dry_run)
