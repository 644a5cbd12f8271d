"""A preset's values, each with its reason, from the sizes that were fitted (`fitted`)."""

from __future__ import annotations

from dataclasses import dataclass

from .fitted import PAIRS_TO_RATE, SAMPLED, STEPS, Fit, size_of
from .graphs.chat import KINDS


@dataclass(frozen=True)
class Value:
    """An override, and why it is so."""

    override: str
    why: str


Preset = dict[str, list[Value]]  # program -> its values


def preset(fit: Fit, data: str, bad: bool) -> Preset:
    """Return the values of every program; `data` names the data file, `bad`: rows that cannot be read are skipped."""
    made = {
        "pipeline": _pipeline(fit, data),
        "tokenizer": [
            Value(f"vocab_size={fit.vocabulary}", f"pieces, for {size_of(fit.text)} of text"),
            Value(f"num_threads={fit.machine.cores}", "the cores; speed alone"),
        ],
        "corpus": [],
        "pretrain": _pretrain(fit),
        "sft": _sft(fit),
        "compare": _sampling(fit, PAIRS_TO_RATE, "comparisons for people to rate, where data.ratings asks for them"),
        "reward": _reward(fit),
        "reward_evaluate": [],
        "rejection_sampling": _rejection_sampling(fit),
        "ppo": _ppo(fit),
        "sample": [
            Value("samples_per_prompt=2", "answers to each"),
            *_sampling(fit, 100, "held-out prompts that every model answers"),
            Value("sampling.temperature=0.8", "likelier answers than those that were learned from"),
            Value("sampling.top_p=0.95", "without the least likely pieces"),
        ],
    }
    if fit.machine.gpus:
        for program in ("compare", "rejection_sampling", "sample", "reward_evaluate"):
            made[program].append(Value("dtype=bfloat16", "halves what sampling and scoring hold"))
        for program in ("pretrain", "sft", "reward", "rejection_sampling", "ppo"):
            made[program] += [
                Value("zero=stage1", "which bfloat16 needs"),
                Value("zero.dtype=bfloat16", "of the GPU's fast units"),
            ]
    if bad:
        for program, values in made.items():
            if program != "pipeline" and program != "pretrain":
                values.append(Value("bad_rows=skip", "rows that cannot be read are counted and left out"))
    return {program: values for program, values in made.items() if values}


def _pipeline(fit: Fit, data: str) -> list[Value]:
    values = [
        Value(f"data={data}", "which file plays which role"),
        Value(f"ranks={fit.ranks}", f"processes, of {fit.machine.name}"),
        Value("rejection_base=sft", "a small model starts from SFT rather than from the base model"),
    ]
    if fit.parts["document"].rows:
        values += [
            Value("replay.sft=0.1", "share of pretraining text in fine-tuning: small models forget without it"),
            Value("replay.rejection_sampling=0.1", "the same"),
        ]
    if fit.folds > 1:
        why = "few pairs: so many reward models of each kind, each measured on the part that it did not see; 1: one, unmeasured"
        values.append(Value(f"folds={fit.folds}", why))
    return values


def _pretrain(fit: Fit) -> list[Value]:
    epochs = fit.tokens / max(1, fit.corpus)
    return [
        Value(f"model={fit.shape}", f"{fit.parameters / 1e6:.1f}M parameters"),
        Value(f"model.max_seq_len={fit.context}", "tokens of the context, of every later model too"),
        Value(
            f"tokens={fit.steps * fit.batch_tokens}",
            f"{epochs:.2g} times the text, which has about {fit.corpus:,.0f}",
        ),
        Value(f"batch_tokens={fit.batch_tokens}", f"{fit.steps:,} steps"),
        Value(f"optim.lr={fit.rate:g}", "peak, for a model of this size"),
        Value(f"optim.warmup_steps={max(1, min(100, fit.steps // 10))}", "a tenth of the steps, 100 at most"),
        *_rhythm(fit.steps),
    ]


def _sft(fit: Fit) -> list[Value]:
    rows = fit.packed(fit.parts["dialogue"])
    return [
        Value(f"epochs={fit.sft_epochs:g}", "passes over the dialogues"),
        Value(f"batch_sequences={fit.batch_sequences}", f"of about {max(1, rows):,.0f} packed rows"),
        Value(f"optim.lr={fit.rate / 3:.2g}", "a third of pretraining's"),
        *_rhythm(fit.sft_steps),
    ]


def _reward(fit: Fit) -> list[Value]:
    rows = {kind: fit.parts[kind].rows for kind in KINDS if fit.parts[kind].rows}
    counts = ", ".join(f"{count:,} of {kind}" for kind, count in rows.items()) or "those that people will rate"
    steps = max(rows.values(), default=PAIRS_TO_RATE) // fit.batch_pairs
    return [
        Value(f"batch_pairs={fit.batch_pairs}", f"pairs per update, of {counts}"),
        Value(f"optim.lr={fit.rate / 10:.2g}", "a tenth of pretraining's"),
        *_rhythm(steps),
    ]


def _rejection_sampling(fit: Fit) -> list[Value]:
    return [
        *_sampling(fit, fit.prompts_tuned, f"prompts, each with {SAMPLED} responses"),
        Value(f"samples_per_prompt={SAMPLED}", "of which the best is kept"),
        Value("sft_fraction=0.5", "as many dialogues as best responses"),
        Value(f"steps={STEPS}", "of fine-tuning on them"),
        Value(f"batch_sequences={fit.batch_best}", "packed rows per update"),
        Value(f"optim.lr={fit.rate / 6:.2g}", "half of fine-tuning's"),
        *_rhythm(STEPS),
    ]


def _ppo(fit: Fit) -> list[Value]:
    return [
        Value(f"iterations={fit.iterations}", "of sampling and learning"),
        Value(f"rollout_prompts={fit.rollouts}", "responses per iteration"),
        Value(f"mini_batch_prompts={fit.rollouts // 2}", "responses per update"),
        Value(f"sampling.max_new_tokens={fit.answer}", "as in rejection sampling"),
        Value(f"optim.lr={fit.rate / 40:.2g}", "a fortieth of pretraining's"),
        Value(f"critic_optim.lr={fit.rate / 7:.2g}", "the critic has to keep up"),
        Value("kl_coef=0.05", "weight of the KL penalty; small models drift sooner than the paper's"),
        Value("critic_warmup=2", "iterations in which only the critic learns"),
        Value(f"run.save_every={max(1, fit.iterations // 3)}", "the most an interruption can lose"),
        Value(f"run.log_every={max(1, fit.iterations // 8)}", "lines in a log"),
        Value(f"samples_every={max(1, fit.iterations // 4)}", "for the report"),
    ]


def _sampling(fit: Fit, prompts: int, why: str) -> list[Value]:
    return [
        Value(f"max_prompts={prompts}", why),
        Value(f"sampling.max_new_tokens={fit.answer}", "nine of ten written answers are shorter"),
    ]


def _rhythm(steps: int) -> list[Value]:
    """Return how often a run saves, measures and speaks."""
    return [
        Value(f"run.save_every={max(1, steps // 3)}", "steps: the most an interruption can lose"),
        Value(f"run.eval_every={max(1, steps // 4)}", "steps between held-out losses"),
        Value(f"run.log_every={max(1, steps // 10)}", "steps between lines in a log"),
    ]
