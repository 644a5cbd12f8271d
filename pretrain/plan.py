"""What a pretraining run will be, in words and numbers, before it is started: `llamatrain pretrain ... --dry-run=64`.

Plain arithmetic on the settings and a corpus's manifest. FITS says what `llamatrain new` makes of them. Imports no torch.
"""

from __future__ import annotations

from dataclasses import replace

from llamatrain import footprint
from llamatrain.data.mixture import source_shares, whole_sequences
from llamatrain.data.shards import Manifest
from llamatrain.errors import UserError
from llamatrain.fitting import Fitted, Sizes, Value, power, rhythm, size_of
from llamatrain.flops import flops_per_token
from llamatrain.given import Given
from llamatrain.length import check_length
from llamatrain.model.config import ModelConfig
from llamatrain.planning import SEQUENCES, HeldOut, Light, Planner, Work, evaluations, saves
from llamatrain.progress import counted
from llamatrain.settings import ZeroConfig
from llamatrain.shares import padding_in_words, passes

from .config import PretrainConfig, TokenizerConfig
from .corpus.config import CorpusConfig

LIGHT = 2.0  # seconds of a start without torch
MANY = 4  # epochs of a source; up to four are about as good as new text (Muennighoff et al. 2023, 2305.16264)


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


def plan(cfg: PretrainConfig, model: ModelConfig, ranks: int, size: int, length: str = "") -> str:
    """Say in words what will be trained, `size` rows at once; `length` goes on after the tokens."""
    assert cfg.seq_len is not None
    rows, steps, warmup = cfg.batch_tokens // cfg.seq_len, cfg.total_steps, cfg.optim.warmup(cfg.total_steps)
    counts = model.parameters_by_kind
    kinds = ", ".join(f"{kind.replace('_', '-')} {count:,}" for kind, count in counts.items())
    fall = f"cosine to {cfg.optim.final_lr_fraction:.0%} of it" if cfg.optim.schedule == "cosine" else "constant"
    return "\n".join(
        [
            f"model: {model.parameters:,} parameters ({kinds}), vocabulary {model.vocab_size:,}",
            f"length: {steps * cfg.batch_tokens:,} tokens = {counted(steps, 'step')} of {cfg.batch_tokens:,}{length}",
            f"batch: {cfg.batch_tokens:,} tokens = {rows:,} rows of {cfg.seq_len:,} = {counted(ranks, 'rank')} x "
            f"{counted(passes(rows, size, ranks), 'accumulated micro-batch', plural='es')} x {counted(size, 'row')}"
            f"{padding_in_words(rows, size, ranks)}",
            f"learning rate: {cfg.optim.lr:g} after {counted(warmup, 'step')} of warm-up, then {fall}",
        ]
    )


def costs(cfg: PretrainConfig, model: ModelConfig, ranks: int) -> str:
    """Say what the run takes: memory on every rank, room for checkpoints, operations and hours."""
    number = model.parameters
    return "\n".join([_memory(cfg.zero, model, ranks), _checkpoints(cfg, number), _work(cfg, model, number)])


def _memory(zero: ZeroConfig, model: ModelConfig, ranks: int) -> str:
    """Say what a rank holds at each ZeRO stage."""
    lines = [
        f"memory per rank, of {counted(ranks, 'rank')} in {zero.dtype}, without activations "
        "(weights + gradients + optimizer state and masters):"
    ]
    for stage in range(4):
        if zero.dtype == "bfloat16" and stage == 0:
            lines.append("  stage 0: not with bfloat16")
            continue
        of = footprint.trained(
            model, replace(zero, stage=stage, offload_optimizer=False, offload_parameters=False), ranks
        )
        note = " <- zero.stage" if stage == zero.stage else ""
        note += ", optimizer state in host memory" if zero.offload_optimizer and stage == zero.stage else ""
        own = -(-model.parameters // ranks) if stage == 3 else model.parameters
        sums = " + ".join(_gigabytes(part) for part in (of.weights, of.gradients, of.masters + of.moments))
        lines.append(f"  stage {stage}: {own:,} parameters, {sums} = {_gigabytes(of.device)} GB{note}")
    return "\n".join(lines)


def _checkpoints(cfg: PretrainConfig, number: int) -> str:
    every, steps = cfg.run.save_every, cfg.total_steps
    count = (-(-steps // every) if every else 1) + cfg.spikes.enabled
    size = _gigabytes(footprint.checkpoint(number, cfg.zero.dtype))
    kept = f"the newest {cfg.run.keep} are kept" if cfg.run.keep else "all are kept"
    first = ", the first before step 1" if cfg.spikes.enabled else ""
    when = f"every {every:,} steps" if every else "at the end"
    return f"checkpoints: {when}, {count:,} of {size} GB each{first}; {kept}"


def _work(cfg: PretrainConfig, model: ModelConfig, number: int) -> str:
    assert cfg.seq_len is not None
    tokens = cfg.total_steps * cfg.batch_tokens
    plain, whole = (tokens * flops_per_token(number, model, cfg.seq_len, attention) for attention in (False, True))
    return f"work: {plain:.3g} floating-point operations by 6N, {whole:.3g} by 6N + attention"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.3g}" if size < 1e11 else f"{size / 1e9:,.0f}"


# --- fitted to data and machine ----------------------------------------------------------------------------------


def _fit_tokenizer(size: Sizes) -> Fitted:
    if size.shape is None:  # the model's own
        return Fitted([], 0.0)
    values = [
        Value(f"vocab_size={size.vocabulary}", f"pieces, for {size_of(size.text)} of text"),
        Value(f"num_threads={size.cores}", "the cores; speed alone"),
    ]
    return Fitted(values, _reading(size), start=LIGHT)


def _fit_corpus(size: Sizes) -> Fitted:
    return Fitted([], _reading(size), start=LIGHT)


def _reading(size: Sizes) -> float:
    return size.text / 1e6 / size.cores


def _fit_pretrain(size: Sizes) -> Fitted:
    if not size.text:
        return Fitted([], 0.0)
    longest = max(size.ranks * size.context, power(size.corpus / 2))
    most = min(longest, 2**19 if size.gpus else 2**14)
    batch = max(size.ranks * size.context, min(most, power(max(1024, size.tokens / 700))))
    steps = max(1, int(size.tokens / batch))
    times = size.tokens / max(1, size.corpus)
    model = [Value(f"seq_len={size.context}", "tokens per sequence")]
    if size.shape is not None:
        model = [
            Value(f"model={size.shape}", f"{size.parameters / 1e6:.1f}M parameters"),
            Value(f"model.max_seq_len={size.context}", "tokens of the context, of every later model too"),
        ]
    values = [
        *model,
        Value(f"tokens={steps * batch}", f"{times:.2g} times the text, which has about {size.corpus:,.0f}"),
        Value(f"batch_tokens={batch}", f"{steps:,} steps"),
        Value(f"optim.lr={size.rate:.2g}", "peak, for a model of this size"),
        Value(f"optim.warmup_steps={max(1, min(100, steps // 10))}", "a tenth of the steps, 100 at most"),
        *rhythm(steps),
    ]
    return Fitted(values, 1.2 * size.tokens * size.learned)


FITS = {"tokenizer": _fit_tokenizer, "corpus": _fit_corpus, "pretrain": _fit_pretrain}


# --- memory and time, for `llamatrain plan` --------------------------------------------------------------------------


def _plan_tokenizer(cfg: TokenizerConfig, given: Given) -> Light:
    return Light({"": cfg.vocab_size})


def _plan_corpus(cfg: CorpusConfig, given: Given) -> Light:
    return Light()


def _plan_pretrain(cfg: PretrainConfig, given: Given) -> Work:
    assert cfg.seq_len is not None
    if cfg.checkpoint is not None:
        model = replace(given.model(cfg.checkpoint), activation_checkpointing=cfg.model.activation_checkpointing)
    else:
        pieces = cfg.model.vocab_size or given.vocabulary(cfg.tokenizer)
        if pieces is None:
            raise UserError(f"tokenizer={cfg.tokenizer}: it is not made yet; need model.vocab_size to count parameters")
        model = cfg.model.with_vocabulary(pieces)
    return Work(
        model,
        cfg.zero.dtype,
        cfg.zero,
        cfg.batch_tokens // cfg.seq_len,
        cfg.seq_len,
        cfg.micro_batch_size,
        segments=cfg.isolate_documents,
        step_tokens=cfg.batch_tokens,
        held_out=HeldOut(evaluations(cfg.run, cfg.total_steps) * (cfg.eval_sequences or SEQUENCES) * cfg.seq_len),
        makes={"final": model},
        **saves(cfg.run, cfg.total_steps, cfg.spikes.enabled),
    )


PLANS: dict[str, Planner] = {"tokenizer": _plan_tokenizer, "corpus": _plan_corpus, "pretrain": _plan_pretrain}
