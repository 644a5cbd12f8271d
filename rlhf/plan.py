"""What sampling and RLHF will be, as `llamatrain new` fits them to data and machine. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from llamatrain.fitting import PAIRS_TO_RATE, Fitted, Sizes, Value, rhythm, sampling
from llamatrain.given import Given, written
from llamatrain.planning import HeldOut, Planner, Rows, Work, evaluations, saves
from llamatrain.responses.config import ResponsesConfig

from .config import CompareConfig, RejectionSamplingConfig, SampleConfig
from .ppo_config import LARGEST, SAMPLER, PPOConfig

BEST_OF, STEPS = 6, 60  # responses to a prompt and updates of rejection sampling
BEST_SHARE, PPO_SHARE = 0.1, 0.15  # of all stages' seconds, at most


def _fit_compare(size: Sizes) -> Fitted:
    values = sampling(size, PAIRS_TO_RATE, "comparisons for people to rate, where data.ratings asks for them")
    return Fitted(values, 2 * PAIRS_TO_RATE * size.written)


def _fit_sample(size: Sizes) -> Fitted:
    prompts = min(100, size.prompts_held_out)
    values = [
        Value("samples_per_prompt=2", "answers to each"),
        *sampling(size, 100, "held-out prompts that every model answers"),
        Value("sampling.temperature=0.8", "likelier answers than those that were learned from"),
        Value("sampling.top_p=0.95", "without the least likely pieces"),
    ]
    return Fitted(values, 2 * prompts * (size.written + _scored(size)))


def _fit_rejection_sampling(size: Sizes) -> Fitted:
    each = BEST_OF * (size.written + _learned_in_ppo(size) / 4)
    affordable = min(BEST_SHARE * size.seconds / each, 2000 if size.gpus else 400)
    prompts = int(min(size.prompts or PAIRS_TO_RATE, max(16, affordable)))
    best = 2 * prompts * size.pair_tokens / size.context  # packed rows of the best and as many dialogues
    batch = min(size.batch_sequences, size.batch(best / 8, 64 if size.gpus else 8))
    values = [
        *sampling(size, prompts, f"prompts, each with {BEST_OF} responses"),
        Value(f"samples_per_prompt={BEST_OF}", "of which the best is kept"),
        Value("sft_fraction=0.5", "as many dialogues as best responses"),
        Value(f"steps={STEPS}", "of fine-tuning on them"),
        Value(f"batch_sequences={batch}", "packed rows per update"),
        Value(f"optim.lr={size.rate / 6:.2g}", "half of fine-tuning's"),
        *rhythm(STEPS),
    ]
    sampled = prompts * BEST_OF * (size.written + _scored(size))
    return Fitted(values, sampled + STEPS * batch * size.context * size.learned)


def _fit_ppo(size: Sizes) -> Fitted:
    rollouts = size.batch(size.prompts / 2, 256 if size.gpus else 64, of=2)
    each = size.written + _learned_in_ppo(size)
    affordable = PPO_SHARE * size.seconds / (rollouts * each)
    iterations = int(min(200 if size.gpus else 40, max(4, affordable)))
    values = [
        Value(f"iterations={iterations}", "of sampling and learning"),
        Value(f"rollout_prompts={rollouts}", "responses per iteration"),
        Value(f"mini_batch_prompts={rollouts // 2}", "responses per update"),
        Value(f"sampling.max_new_tokens={size.answer}", "as in rejection sampling"),
        Value(f"optim.lr={size.rate / 40:.2g}", "a fortieth of pretraining's"),
        Value(f"critic_optim.lr={size.rate / 7:.2g}", "the critic has to keep up"),
        Value("kl_coef=0.05", "weight of the KL penalty; small models drift sooner than the paper's"),
        Value("critic_warmup=2", "iterations in which only the critic learns"),
        Value(f"run.save_every={max(1, iterations // 3)}", "the most an interruption can lose"),
        Value(f"run.log_every={max(1, iterations // 8)}", "lines in a log"),
        Value(f"samples_every={max(1, iterations // 4)}", "for the report"),
    ]
    return Fitted(values, iterations * rollouts * each)


def _scored(size: Sizes) -> float:
    """Return the seconds of a response's two scores: a forward pass of each reward model is a third of training."""
    return size.pair_tokens * size.learned * 2 / 3


def _learned_in_ppo(size: Sizes) -> float:
    """Return the seconds of a response read by five models and learned from by two, in sixths of training times 22."""
    return size.pair_tokens * 22 / 6 * size.learned


FITS = {
    "compare": _fit_compare,
    "rejection_sampling": _fit_rejection_sampling,
    "ppo": _fit_ppo,
    "sample": _fit_sample,
}


def _asked(cfg: PPOConfig | CompareConfig | ResponsesConfig, given: Given) -> tuple[float, float, float]:
    """Return how many prompts there are, and the tokens of one and of a response to it, on average."""
    prompts = given.rows(cfg.prompts, "prompt")
    return min(prompts.count, cfg.max_prompts or prompts.count), prompts.tokens, written(cfg.sampling.max_new_tokens)


def _plan_ppo(cfg: PPOConfig, given: Given) -> Work:
    """Policy and critic learn; reference and both reward models are read. The policy samples beside them all."""
    model = replace(given.model(cfg.checkpoint), activation_checkpointing=cfg.activation_checkpointing)
    prompts, prompt, answer = _asked(cfg, given)
    row = min(prompt + answer, model.max_seq_len)
    responses = cfg.iterations * cfg.rollout_prompts
    apart = given.rows(cfg.prompts_eval, "prompt").part_of(cfg.max_prompts_eval).count
    asked = apart if cfg.prompts_eval else min(cfg.hold_out, prompts / LARGEST)
    times = evaluations(cfg.run, cfg.iterations, before=False) if cfg.holds_out else 0
    made = {**saves(cfg.run, cfg.iterations), "steps": cfg.iterations * cfg.updates_per_iteration}
    return Work(
        model,
        cfg.zero.dtype,
        cfg.zero,
        cfg.mini_batch_prompts,
        model.max_seq_len,
        cfg.micro_batch_size,
        models=cfg.models,
        learned=min(cfg.sampling.max_new_tokens, model.max_seq_len),
        segments=True,
        stays=True,
        at_once=cfg.generation_batch_size,
        step_tokens=cfg.mini_batch_prompts * row,
        sampled=responses,
        rounds=cfg.iterations,
        prompt_tokens=prompt,
        written_tokens=answer,
        read_tokens=(4 if cfg.old_logprobs == SAMPLER else 5) * responses * row,
        held_out=HeldOut(cfg.models.scorers * times * asked * row, round(asked), times),
        makes={"final": model},
        **made,
    )


def _plan_rejection_sampling(cfg: RejectionSamplingConfig, given: Given) -> Work:
    model = replace(given.model(cfg.checkpoint), activation_checkpointing=cfg.activation_checkpointing)
    prompts, prompt, answer = _asked(cfg, given)
    length, responses = cfg.max_length or model.max_seq_len, prompts * cfg.samples_per_prompt
    tried = len({cfg.sampling.temperature, *cfg.try_temperatures}) if cfg.try_temperatures else 0
    sampled = responses + tried * min(cfg.trial_prompts, prompts) * cfg.samples_per_prompt
    row = min(prompt + answer, model.max_seq_len)
    return Work(
        model,
        cfg.dtype,
        cfg.zero,
        cfg.batch_sequences,
        length,
        cfg.micro_batch_size,
        segments=True,
        whole=3,
        at_once=cfg.generation_batch_size,
        step_tokens=cfg.batch_sequences * length,
        sampled=sampled,
        prompt_tokens=prompt,
        written_tokens=answer,
        read_tokens=2 * sampled * row,
        makes={"final": model, "responses.jsonl": Rows(responses, row), "best.jsonl": Rows(prompts, row)},
        **saves(cfg.run, cfg.steps),
    )


def _plan_sample(cfg: SampleConfig, given: Given) -> Work:
    prompts, prompt, answer = _asked(cfg, given)
    scorers, model = sum(one is not None for one in (cfg.helpfulness, cfg.safety)), given.model(cfg.checkpoint)
    responses, row = prompts * cfg.samples_per_prompt, min(prompt + answer, model.max_seq_len)
    return Work(
        model,
        cfg.dtype,
        whole=1 + scorers,
        at_once=cfg.generation_batch_size,
        sampled=responses,
        prompt_tokens=prompt,
        written_tokens=answer,
        read_tokens=scorers * responses * row,
        makes={"responses.jsonl": Rows(responses, row)},
    )


def _plan_compare(cfg: CompareConfig, given: Given) -> Work:
    prompts, prompt, answer = _asked(cfg, given)
    pairs = prompts * cfg.pairs_per_prompt
    return Work(
        given.model(cfg.checkpoint_a, "checkpoint_a"),
        cfg.dtype,
        whole=1 + (cfg.checkpoint_b is not None),  # one writes after the other, and both stay
        at_once=cfg.generation_batch_size,
        sampled=2 * pairs,
        prompt_tokens=prompt,
        written_tokens=answer,
        makes={"comparisons.jsonl": Rows(pairs, prompt + answer)},
    )


PLANS: dict[str, Planner] = {
    "ppo": _plan_ppo,
    "rejection_sampling": _plan_rejection_sampling,
    "sample": _plan_sample,
    "compare": _plan_compare,
}
