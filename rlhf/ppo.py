"""PPO from a chat checkpoint against two reward models (paper 3.2.3).

Each iteration, over a batch of prompts:
    1. act      sample a response per prompt from the policy
    2. judge    log-probabilities of policy and reference, values of the critic, scores of the reward models
    3. credit   whitened scores and the KL penalty -> rewards -> advantages and returns, over the whole batch
    4. learn    one update of policy and critic per mini-batch

What the paper leaves open: the critic is a model of its own, started from the helpfulness reward model and rescaled
to the returns of the first batch; gamma 1, lambda 0.95, value clip 0.2, no entropy bonus. The reference is the
checkpoint that PPO starts from. Every rank judges its share of the responses; then all ranks hold all of them (tokens
and four numbers per token), so that neither whitening nor the mini-batches know of ranks.

A signal ends the run at the next token, at the next micro-batch that is judged, at the next mini-batch where the
iteration's start is on disk, or else after the iteration. What is sampled and judged is kept (kept.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from llamatrain import distributed, heartbeat, hf_tokenizer
from llamatrain.config.program import main
from llamatrain.data.order import shuffled
from llamatrain.data.skipped import BadRows
from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.length import check_length
from llamatrain.memory import models_bytes, responses_at_once
from llamatrain.model.config import load_config
from llamatrain.progress import counted
from llamatrain.responses.models import frozen_model, sampled_and_scored_by, shared_context, shared_tokenizer
from llamatrain.responses.prompts import Prompt, load_prompts, prompts_fingerprint
from llamatrain.responses.scoring import require_zero
from llamatrain.run import Run
from llamatrain.shares import padding_in_words
from llamatrain.start import language_engine, rows_at_once, scalar_engine
from llamatrain.tokenizer import Tokenizer

from .config import PROGRAMS, PPOConfig
from .critic import rescale
from .experience import Batch, Models, batch_metrics, credit, explained_variance, zero_problems
from .kept import Kept, act, forget_others, judge_all, kept_key
from .learning import learn
from .samples_log import SamplesLog

PATIENCE = 20  # iterations beyond critic_warmup in which the policy waits for its critic


def train(cfg: PPOConfig) -> None:
    """Train a chat model against the reward models."""
    distributed.setup()
    parents = sampled_and_scored_by(cfg.checkpoint, cfg.helpfulness, cfg.safety)
    tokenizer, context = shared_tokenizer(parents, cfg.tokenizer), shared_context(parents)
    choose_sizes(cfg, parents["checkpoint"], context, distributed.world_size())
    prompts, text = plan(cfg, tokenizer, context, distributed.world_size())
    data, fixed = {"prompts": prompts_fingerprint(cfg.prompts)}, ("rollout_prompts", "max_prompts", "too_long")
    with Run(cfg.run, "ppo", cfg, parents, data, fixed, then=PROGRAMS["ppo"].then) as run:
        run.print(text)
        models = load_models(cfg, parents, run.resumes())
        engines = {"policy": models.policy, "critic": models.critic}
        start, _ = run.resume(engines)
        run.expect(cfg.iterations)
        if run.is_main:
            hf_tokenizer.announce(tokenizer, run.print)
        samples = SamplesLog(run, start, cfg.samples_every, cfg.samples_kept, tokenizer)
        key = kept_key(cfg, parents, run)
        forget_others(run, start)
        with run.progress(cfg.iterations, "ppo", "iterations", done=start, every=cfg.run.log_every) as bar:
            for iteration in range(start, cfg.iterations):
                heartbeat.at_step(iteration)
                clock, kept = Clock(), Kept(run, key, iteration, cfg.rollout_prompts, cfg.chunk_responses)
                leave = partial(leave_if_asked, run, engines, tokenizer, iteration)
                with clock("act"):  # 1.
                    wanted = rollout_prompts(cfg, prompts, iteration)
                    rollouts = act(cfg, models.policy, wanted, tokenizer, kept, leave)
                with clock("judge"):  # 2.
                    judged = judge_all(cfg, models, rollouts, context, kept, leave)
                    if iteration == 0:
                        require_zero(zero_problems(cfg, judged), cfg.gate, run.print)
                with clock("credit"):  # 3.
                    batch = credit(cfg, judged)
                    # Until the policy's first update: the critic's head is fit to the returns, then credit given again.
                    if models.policy.steps_done == 0:
                        batch = credit(cfg, rescale(cfg, models.critic, batch, context))
                hold = holds(cfg, models.policy.steps_done, iteration, batch)
                with clock("learn"):  # 4.
                    # What is half learned is learned again, from weights that are on disk.
                    pause = leave if run.saved == iteration else None
                    learned = learn(cfg, models, batch, iteration, context, hold, pause)
                step = iteration + 1
                metrics = {**batch_metrics(batch), **learned, "ppo/held": hold, **clock.seconds}
                check_finite(metrics, step, run.checkpoints)
                run.log(step, metrics)
                samples.write(step, batch)
                kept.forget()
                bar.update(score=metrics["ppo/score_combined"], kl=metrics["ppo/kl"])
                run.saver.check()
                stop = run.stop_requested()
                if stop or run.config.saves_after(step) or step == cfg.iterations:
                    run.save(step, engines, tokenizer)
                if stop and step < cfg.iterations:
                    run.stop(step)
        run.finish(max(start, cfg.iterations))


def leave_if_asked(run: Run, engines: Mapping[str, Engine], tokenizer: Tokenizer, iteration: int) -> None:
    """End the run where a signal asks to, in an iteration that has changed no weight yet; all ranks together."""
    if run.stop_requested():
        if run.saved < iteration:
            run.save(iteration, engines, tokenizer)
        run.stop(iteration)


def holds(cfg: PPOConfig, updates: int, iteration: int, batch: Batch) -> bool:
    """Tell whether only the critic learns in this iteration; `updates` are those that the policy has had.

    The policy does not move before the critic explains some of the returns: advantages against worse values mislead it.
    """
    explained = explained_variance(batch.values[batch.mask], batch.credit.following[batch.mask])
    # Once the policy has moved it goes on: a critic that falls behind for an iteration must not stop it.
    if updates > 0 or (iteration >= cfg.critic_warmup and explained > 0):
        return False
    if iteration - cfg.critic_warmup >= PATIENCE:
        raise UserError(
            f"the critic explains none of the returns' variance after {iteration} iterations "
            f"(ppo/explained_variance is {explained:.2f}): raise critic_optim.lr"
        )
    return True


def plan(cfg: PPOConfig, tokenizer: Tokenizer, context: int, ranks: int) -> tuple[list[Prompt], str]:
    """Return the prompts, and in words what will be trained on them."""
    assert cfg.micro_batch_size is not None
    notes: list[str] = []
    bad = BadRows(cfg.bad_rows)
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
    epochs = cfg.iterations * cfg.rollout_prompts / len(prompts)
    batch = ("rollout_prompts", cfg.rollout_prompts)
    check_length(batch, len(prompts), "prompts", epochs, ("iterations",), cfg.run.given)
    updates = f"{cfg.updates_per_iteration:,} update{'s' if cfg.updates_per_iteration > 1 else ''}"
    notes.append(
        f"{counted(cfg.iterations, 'iteration')} of {cfg.rollout_prompts:,} prompts and {updates}: "
        f"{counted(epochs, 'epoch', '.3g')} of {len(prompts):,} prompts; {cfg.micro_batch_size} responses per rank at once"
        f"{padding_in_words(cfg.mini_batch_prompts, cfg.micro_batch_size, ranks)}"
    )
    return prompts, "\n".join(notes)


def dry_run(cfg: PPOConfig, ranks: int | None) -> str:
    """Return the plan for so many ranks (None: those of the launcher); nothing is written."""
    ranks = ranks or distributed.world_size()
    parents = sampled_and_scored_by(cfg.checkpoint, cfg.helpfulness, cfg.safety)
    context = shared_context(parents)
    choose_sizes(cfg, parents["checkpoint"], context, ranks)
    return plan(cfg, shared_tokenizer(parents, cfg.tokenizer), context, ranks)[1]


def choose_sizes(cfg: PPOConfig, policy: Path, context: int, ranks: int) -> None:
    """Fill in how many responses a rank learns from and generates at once, where that is left to its memory.

    It trains two models and reads three. Under ZeRO-3 the policy is gathered while it generates.
    """
    learned = min(context, cfg.sampling.max_new_tokens)
    cfg.micro_batch_size = rows_at_once(cfg, policy, cfg.mini_batch_prompts, context, ranks, 2, 3, learned)
    model = load_config(policy)[0]
    held = models_bytes(model, cfg.zero, ranks, 2, 3, distributed.device().type)
    cfg.generation_batch_size = responses_at_once(
        cfg.generation_batch_size, model, cfg.zero.dtype, int(cfg.zero.stage == 3), ranks, held
    )


def load_models(cfg: PPOConfig, parents: dict[str, Path], resumes: bool) -> Models:
    """Load the five models; with `resumes` policy and critic have no weights yet."""
    policy, helpful, safe = parents["checkpoint"], parents["helpfulness"], parents["safety"]
    updates = cfg.iterations * cfg.updates_per_iteration
    # The policy's schedule counts its own updates, which are those that it does not wait for its critic.
    moves = max(1, updates - min(cfg.critic_warmup, cfg.iterations) * cfg.updates_per_iteration)
    zero, checkpointing, seed = cfg.zero, cfg.activation_checkpointing, cfg.run.seed
    return Models(
        policy=language_engine(policy, cfg.optim, zero, moves, checkpointing, resumes=resumes),
        critic=scalar_engine(helpful, cfg.critic_optim, zero, updates, seed, checkpointing, resumes),
        reference=frozen_model(policy, cfg.zero, scalar=False),
        helpfulness=frozen_model(helpful, cfg.zero, scalar=True),
        safety=frozen_model(safe, cfg.zero, scalar=True),
    )


def rollout_prompts(cfg: PPOConfig, prompts: list[Prompt], iteration: int) -> list[tuple[Prompt, int]]:
    """Return an iteration's prompts, each with its sample number: every prompt once an epoch, in an order of its own.

    The sample number is the epoch, so a prompt that falls twice into a batch gets different noise.
    """
    # A function of the iteration alone, as every order of samples: a resumed run needs no state of the loader.
    places = np.arange(iteration * cfg.rollout_prompts, (iteration + 1) * cfg.rollout_prompts)
    chosen, epochs = shuffled(places, len(prompts), cfg.run.seed).tolist(), (places // len(prompts)).tolist()
    return [(prompts[place], epoch) for place, epoch in zip(chosen, epochs, strict=True)]


def check_finite(metrics: dict[str, float], step: int, checkpoints: Path) -> None:
    """Stop a run whose metrics are no longer finite."""
    broken = sorted(key for key, value in metrics.items() if not math.isfinite(value))
    if broken:
        raise UserError(
            f"{broken[0]} is {metrics[broken[0]]} at iteration {step}: lower optim.lr or critic_optim.lr; "
            f"the last checkpoint in {checkpoints} is from before it"
        )


class Clock:
    """Seconds of each phase, as ppo/seconds_<phase>."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time what runs inside."""
        started = time.perf_counter()
        with heartbeat.phase(phase):
            yield
        self.seconds[f"ppo/seconds_{phase}"] = time.perf_counter() - started


if __name__ == "__main__":
    main("ppo", PPOConfig, train, plan=dry_run)
