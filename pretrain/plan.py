"""What a pretraining run will be, in words and numbers, before it is started: `llamatrain pretrain ... --dry-run=64`.

Reads the tokenizer and the corpus where they are there and needs neither. The model is built without memory.
"""

from __future__ import annotations

from pathlib import Path

import torch

from llamatrain import checkpoint
from llamatrain.data.batches import check_split
from llamatrain.data.sequences import source_shares, whole_sequences
from llamatrain.data.shards import MANIFEST, Manifest, read_manifest
from llamatrain.distributed import world_size
from llamatrain.errors import UserError
from llamatrain.flops import flops_per_token
from llamatrain.hf_folder import load_tokenizer
from llamatrain.length import check_length
from llamatrain.memory import BYTES, held_bytes, micro_batch
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.optim import kind_of
from llamatrain.settings import ZeroConfig
from llamatrain.tokenizer import Tokenizer

from .config import PretrainConfig

UTILISATION = 0.4  # of the peak; the paper's GPU hours make it 0.35 to 0.43 (2.2.1, table 2)
MANY = 4  # epochs of a source; up to four are about as good as new text (Muennighoff et al. 2023, 2305.16264)


def parameters_by_kind(model: ModelConfig) -> dict[str, int]:
    """Return how many parameters the model has of each kind of tensor, without making it."""
    counts = dict.fromkeys(("embedding", "attention", "feed_forward", "norm", "head"), 0)
    with torch.device("meta"):  # shapes without memory: 70B parameters are counted on a laptop
        for name, parameter in Transformer(model, None).named_parameters():
            counts[kind_of(name)] += parameter.numel()
    return counts


def parameters(model: ModelConfig) -> int:
    """Return how many parameters the model has, without making it."""
    return sum(parameters_by_kind(model).values())


def rows_at_once(cfg: PretrainConfig, model: ModelConfig, ranks: int) -> int:
    """Return the micro-batch size; UserError for a global batch that the ranks cannot share."""
    assert cfg.seq_len is not None
    check_split(
        "batch_tokens", cfg.batch_tokens, {"seq_len": cfg.seq_len, "micro_batch_size": cfg.micro_batch_size}, ranks
    )
    rows = cfg.batch_tokens // cfg.seq_len
    return micro_batch(cfg.micro_batch_size, rows, cfg.seq_len, model, cfg.zero, ranks)


def starting_point(cfg: PretrainConfig) -> tuple[Path | None, Tokenizer]:
    """Return the checkpoint that is trained further, if any, and the tokenizer: that of the checkpoint, or the given one."""
    if cfg.checkpoint is not None:
        folder = checkpoint.resolve(cfg.checkpoint)
        return folder, load_tokenizer(folder, cfg.tokenizer)
    if cfg.tokenizer is None:
        raise UserError("tokenizer=null: need a tokenizer.model or the folder that holds it, or checkpoint=FOLDER")
    return None, Tokenizer(cfg.tokenizer)


def check_epochs(cfg: PretrainConfig, manifest: Manifest) -> None:
    """Refuse a batch above the corpus, and a length that nobody gave and that goes through it too often."""
    turns = cfg.total_steps * cfg.batch_tokens / max(1, manifest.tokens)
    batch = ("batch_tokens", cfg.batch_tokens)
    check_length(batch, manifest.tokens, "tokens", turns, ("tokens", "steps"), cfg.run.given)


def epochs(cfg: PretrainConfig, manifest: Manifest) -> str:
    """Say how often training goes through the corpus, and through each of several sources; warn of many times."""
    assert cfg.seq_len is not None
    lines = [f" = {cfg.total_steps * cfg.batch_tokens / manifest.tokens:.2f} epochs of {manifest.tokens:,}"]
    rows = cfg.total_steps * (cfg.batch_tokens // cfg.seq_len)
    turns = {
        source.name: (share, rows * share / max(1, whole_sequences(source, cfg.seq_len)))
        for source, share in zip(manifest.sources, source_shares(manifest.sources, cfg.mixture), strict=True)
    }
    if len(turns) > 1:
        told = (f"{name} {turn:.2f} epochs ({share:.1%} of the sequences)" for name, (share, turn) in turns.items())
        lines.append(f"sources: {', '.join(told)}")
    lines += [
        f"warning: {name} is repeated for {turn:.1f} epochs: beyond {MANY}, a repeated token teaches less than a new one"
        for name, (_, turn) in turns.items()
        if turn > MANY
    ]
    return "\n".join(lines)


def start(folder: Path | None) -> str:
    """Say where training begins."""
    if folder is None:
        return "start: random weights"
    made = ""
    if (folder / "llamatrain.json").is_file():
        lineage = checkpoint.lineage(folder)
        made = f" ({lineage['program']}, step {lineage['step']:,})"
    return f"start: the weights of {folder}{made}, with a fresh optimizer and a schedule of its own"


def plan(cfg: PretrainConfig, model: ModelConfig, ranks: int, folder: Path | None, length: str = "") -> str:
    """Say in words what will be trained, from which checkpoint `folder` if any; `length` goes on after the tokens."""
    assert cfg.seq_len is not None
    rows, steps, warmup = cfg.batch_tokens // cfg.seq_len, cfg.total_steps, cfg.optim.warmup(cfg.total_steps)
    size = rows_at_once(cfg, model, ranks)
    counts = parameters_by_kind(model)
    kinds = ", ".join(f"{kind.replace('_', '-')} {count:,}" for kind, count in counts.items())
    fall = f"cosine to {cfg.optim.final_lr_fraction:.0%} of it" if cfg.optim.schedule == "cosine" else "constant"
    return "\n".join(
        [
            start(folder),
            f"model: {sum(counts.values()):,} parameters ({kinds}), vocabulary {model.vocab_size:,}",
            f"length: {steps * cfg.batch_tokens:,} tokens = {steps:,} steps of {cfg.batch_tokens:,}{length}",
            f"batch: {cfg.batch_tokens:,} tokens = {rows:,} rows of {cfg.seq_len:,} = {_count(ranks, 'rank')} x "
            f"{_count(rows // (size * ranks), 'accumulated micro-batch', 'es')} x {_count(size, 'row')}",
            f"learning rate: {cfg.optim.lr:g} after {warmup:,} steps of warm-up, then {fall}",
        ]
    )


def dry_run(cfg: PretrainConfig, ranks: int | None) -> str:
    """Return the whole plan for so many ranks (None: those of the launcher); nothing is written."""
    ranks = ranks or world_size()
    folder, pieces = _start(cfg)
    model = cfg.model.with_vocabulary(pieces)
    manifest = Path(cfg.corpus) / "train" / MANIFEST
    length = "; the corpus does not exist yet"
    if manifest.is_file():
        found = read_manifest(manifest.parent)
        check_epochs(cfg, found)
        length = epochs(cfg, found)
    number = parameters(model)
    parts = [plan(cfg, model, ranks, folder, length), _memory(cfg.zero, number, ranks), _checkpoints(cfg, number)]
    return "\n".join([*parts, _work(cfg, model, number, ranks)])


def _start(cfg: PretrainConfig) -> tuple[Path | None, int]:
    """Return the checkpoint that is trained further, if any, and how many pieces its tokenizer has."""
    if cfg.checkpoint is None and (cfg.tokenizer is None or not Path(cfg.tokenizer).exists()):
        if cfg.model.vocab_size is None:
            there = "null" if cfg.tokenizer is None else f"{cfg.tokenizer}, which does not exist"
            raise UserError(f"model.vocab_size=null and tokenizer={there}: need one of them to count parameters")
        return None, cfg.model.vocab_size
    folder, tokenizer = starting_point(cfg)
    return folder, tokenizer.vocab_size


def _memory(zero: ZeroConfig, number: int, ranks: int) -> str:
    """Say what a rank holds at each ZeRO stage."""
    lines = [
        f"memory per rank, of {_count(ranks, 'rank')} in {zero.dtype}, without activations "
        "(weights + gradients + optimizer state and masters):"
    ]
    for stage in range(4):
        held = held_bytes(number, zero.dtype, stage, ranks)
        note = " <- zero.stage" if stage == zero.stage else ""
        note += " (not with bfloat16)" if zero.dtype == "bfloat16" and stage == 0 else ""
        note += ", optimizer state in host memory" if zero.offload_optimizer and stage == zero.stage else ""
        own = -(-number // ranks) if stage == 3 else number
        sums = " + ".join(_gigabytes(part) for part in held)
        lines.append(f"  stage {stage}: {own:,} parameters, {sums} = {_gigabytes(sum(held))} GB{note}")
    return "\n".join(lines)


def _checkpoints(cfg: PretrainConfig, number: int) -> str:
    every, steps = cfg.run.save_every, cfg.total_steps
    count = (-(-steps // every) if every else 1) + cfg.spikes.enabled
    weights, _, optimizer = BYTES[cfg.zero.dtype]
    size = _gigabytes(number * (weights + optimizer))
    kept = f"the newest {cfg.run.keep} are kept" if cfg.run.keep else "all are kept"
    first = ", the first before step 1" if cfg.spikes.enabled else ""
    when = f"every {every:,} steps" if every else "at the end"
    return f"checkpoints: {when}, {count:,} of {size} GB each{first}; {kept}"


def _work(cfg: PretrainConfig, model: ModelConfig, number: int, ranks: int) -> str:
    assert cfg.seq_len is not None
    tokens = cfg.total_steps * cfg.batch_tokens
    plain, whole = (tokens * flops_per_token(number, model, cfg.seq_len, attention) for attention in (False, True))
    work = f"work: {plain:.3g} floating-point operations by 6N, {whole:.3g} by 6N + attention"
    if cfg.peak_tflops is None:
        return f"{work}; no time estimate, as peak_tflops=null"
    hours = plain / (UTILISATION * cfg.peak_tflops * 1e12) / 3600  # operations over operations per second
    return (
        f"{work}\ntime: {hours:,.0f} device hours at {UTILISATION:.0%} (6N) of {cfg.peak_tflops:g} TFLOP/s, "
        f"{hours / ranks:,.0f} hours = {hours / ranks / 24:,.1f} days on {_count(ranks, 'rank')}"
    )


def _count(number: int, unit: str, plural: str = "s") -> str:
    return f"{number:,} {unit}{'' if number == 1 else plural}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.3g}" if size < 1e11 else f"{size / 1e9:,.0f}"
