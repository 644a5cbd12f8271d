"""PPO from a chat checkpoint against two reward models (paper 3.2.3).

Each iteration, over a batch of prompts:
    1. act      sample a response per prompt from the policy
    2. judge    log-probabilities of policy (`old_logprobs`) and reference, values of the critic, scores of the reward models
    3. credit   whitened scores and the KL penalty -> rewards -> advantages and returns, over the whole batch
    4. learn    one update of policy and critic per mini-batch

What the paper leaves open: the critic is a model of its own, started from the helpfulness reward model (or the policy) and
rescaled to the returns of the first batch; gamma 1, lambda 0.95, value clip 0.2, no entropy bonus; where the KL penalty
stands, by which estimator and at which weight (kl.py). The reference is the checkpoint that PPO starts from. Every rank judges its share of the responses; then all ranks hold all of them (tokens
and four numbers per token), so that neither whitening nor the mini-batches know of ranks.

A signal ends the run at the next token, at the next micro-batch that is judged, at the next mini-batch where the
iteration's start is on disk, or else after the iteration. What is sampled and judged is kept (kept.py), and from 3. on stored
(store.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llamatrain import checkpoint, distributed, heartbeat, hf_tokenizer
from llamatrain.config.program import main
from llamatrain.data.order import shuffled
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.length import check_length
from llamatrain.outlook import told
from llamatrain.progress import counted
from llamatrain.responses.models import frozen_model, sampled_and_scored_by, shared_context, shared_tokenizer
from llamatrain.responses.prompts import Prompt, load_prompts, prompts_fingerprint
from llamatrain.responses.scoring import require_zero
from llamatrain.run import Run
from llamatrain.shares import padding_in_words
from llamatrain.start import language_engine, scalar_engine
from llamatrain.tokenizer import Tokenizer

from .config import PROGRAMS
from .course import Course
from .critic import rescale
from .experience import Batch, Judged, Models, credit, zero_problems
from .held_out import HeldOut
from .kept import Kept, act, forget, judge_all, kept_key
from .learning import learn
from .measures import batch_metrics, explained_variance
from .plan import PLANS
from .ppo_config import HELPFULNESS, PPOConfig
from .replay import Replay
from .sizes import choose_sizes
from .store import Store

PATIENCE = 20  # iterations beyond critic_warmup in which the policy waits for its critic


@dataclass
class Inputs:
    """What a run reads beside its models."""

    tokenizer: Tokenizer
    context: int
    prompts: list[Prompt]
    held_out: HeldOut
    replay: Replay | None
    whole: bool  # are the models that are only read, at ZeRO-3
    counts: dict[str, float]  # of the prompts, as they are logged


def train(cfg: PPOConfig) -> None:
    """Train a chat model against the reward models."""
    distributed.setup()
    parents = parents_of(cfg)
    inputs, text = plan(cfg, parents, distributed.world_size())
    data = {"prompts": prompts_fingerprint(cfg.prompts)}
    fixed = ("rollout_prompts", "max_prompts", "hold_out", "too_long")
    if inputs.replay is not None:
        data["replay"] = inputs.replay.batches.fingerprint
    with Run(cfg.run, "ppo", cfg, parents, data, fixed, then=PROGRAMS["ppo"].then) as run:
        run.print(text)
        models = load_models(cfg, parents, run.resumes(), inputs.whole)
        course = Course(cfg, run, models, inputs.tokenizer)
        iteration = course.resume()
        run.expect(cfg.iterations)
        if run.is_main:
            hf_tokenizer.announce(inputs.tokenizer, run.print)
        if iteration == 0 and inputs.held_out.prompts:
            run.log(0, inputs.held_out.measure(models)[0])
        iterate(cfg, run, models, inputs, course, Store(cfg, run, kept_key(cfg, parents, run.settings)), iteration)


def iterate(
    cfg: PPOConfig, run: Run, models: Models, inputs: Inputs, course: Course, store: Store, iteration: int
) -> None:
    """Take the iterations from `iteration` on."""
    with run.progress(cfg.iterations, "ppo", "iterations", done=iteration, every=cfg.run.log_every) as bar:
        while iteration < cfg.iterations and not run.best.exhausted():
            heartbeat.at_step(iteration)
            step, clock = iteration + 1, Clock()
            leave = partial(course.leave_if_asked, iteration)
            wanted, rollbacks = rollout_prompts(cfg, inputs.prompts, iteration), course.guards.rollbacks(run)
            judged = store.find(step, wanted, rollbacks)  # what an interrupted run has sampled and judged
            if judged is None:
                kept = Kept(run, store.key, iteration, cfg.rollout_prompts, cfg.chunk_responses)
                with clock("act"):  # 1.
                    rollouts = act(cfg, models.policy, wanted, inputs.tokenizer, kept, leave)
                with clock("judge"):  # 2.
                    judged = judge_all(cfg, models, rollouts, inputs.context, kept, leave)
            if iteration == 0:
                require_zero(zero_problems(cfg, judged), cfg.gate, run.print)
            with clock("credit"):  # 3.
                batch, hold = credited(cfg, models, judged, iteration, inputs.context, course.kl.value)
            with clock("store"):
                store.keep(step, judged, batch, wanted, hold, rollbacks)
                forget(run)
            with clock("learn"):  # 4.
                # What is half learned is learned again, from weights that are on disk.
                pause = leave if run.saved == iteration else None
                metrics = learn_from(cfg, models, batch, iteration, inputs, hold, pause)
            if not hold:
                store.add_ratios(batch)
            if (found := course.guards.check(metrics)) is not None:
                iteration = course.answer(found, metrics | clock.seconds, step)
                bar.back(iteration)
                continue
            if not hold:
                course.kl.adapt(metrics["ppo/kl"], cfg.rollout_prompts)
            best = False
            if cfg.run.evaluates_after(step, cfg.iterations):
                metrics |= inputs.counts
                if inputs.held_out.prompts:
                    with clock("evaluate"):
                        measured, best = inputs.held_out.follow(models, step, run.best)
                    metrics |= measured
            run.log(step, metrics | clock.seconds)
            course.samples.write(step, batch)
            bar.update(score=metrics["ppo/score_combined"], kl=metrics["ppo/kl"])
            course.save_or_stop(step, best)
            store.prune(step)
            iteration = step
    run.finish(iteration)


def credited(
    cfg: PPOConfig, models: Models, judged: list[Judged], iteration: int, context: int, kl_coef: float
) -> tuple[Batch, bool]:
    """Assign credit to an iteration's rollouts; return the batch, and whether only the critic learns from it.

    Before the policy's first update the critic is rescaled to them.
    """
    batch = credit(cfg, judged, kl_coef)
    # The critic's head is fit to the returns, then credit given again.
    if models.policy.steps_done == 0:
        judged = rescale(cfg, models.critic, batch, context)
        batch = credit(cfg, judged, kl_coef)
    return batch, holds(cfg, models.policy.steps_done, iteration, batch)


def learn_from(
    cfg: PPOConfig,
    models: Models,
    batch: Batch,
    iteration: int,
    inputs: Inputs,
    hold: bool,
    pause: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Learn from an iteration's batch, as `learn` does; return all that is measured of the iteration."""
    learned = learn(cfg, models, batch, iteration, inputs.context, hold, pause, inputs.replay)
    return {**batch_metrics(cfg, batch), **learned, "ppo/held": float(hold)}


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


def parents_of(cfg: PPOConfig) -> dict[str, Path]:
    """Return the verified folders of the models that are read, by their configuration keys."""
    apart = {key: checkpoint.resolve(path, "reward") for key, path in cfg.scored_apart_by.items()}
    return sampled_and_scored_by(cfg.checkpoint, cfg.helpfulness, cfg.safety) | apart


def plan(cfg: PPOConfig, parents: dict[str, Path], ranks: int) -> tuple[Inputs, str]:
    """Choose sizes for so many ranks and read the prompts; return them, and in words what will be trained on them."""
    tokenizer, context = shared_tokenizer(parents, cfg.tokenizer), shared_context(parents)
    whole, where = choose_sizes(cfg, parents["checkpoint"], context, ranks)
    notes: list[str] = []
    left_out = Counter[str]()
    prompts = load_prompts(
        cfg.prompts,
        tokenizer,
        context,
        cfg.sampling.max_new_tokens,
        cfg.max_prompts,
        cfg.too_long,
        notes.append,
        BadRows(cfg.bad_rows),
        left_out=left_out,
    )
    held_out = HeldOut(cfg, tokenizer, context, prompts, notes.append)
    prompts = held_out.learned_from
    counts = {"ppo/prompts": float(len(prompts)), "ppo/skipped": float(left_out["too long"])}
    epochs = cfg.iterations * cfg.rollout_prompts / len(prompts)
    batch = ("rollout_prompts", cfg.rollout_prompts)
    check_length(batch, len(prompts), "prompts", epochs, ("iterations",), cfg.run.given)
    updates = f"{cfg.updates_per_iteration:,} update{'s' if cfg.updates_per_iteration > 1 else ''}"
    assert cfg.micro_batch_size is not None
    notes.append(
        f"{counted(cfg.iterations, 'iteration')} of {cfg.rollout_prompts:,} prompts and {updates}: "
        f"{counted(epochs, 'epoch', '.3g')} of {len(prompts):,} prompts; {cfg.micro_batch_size} responses per rank at once"
        f"{padding_in_words(cfg.mini_batch_prompts, cfg.micro_batch_size, ranks)}"
    )
    replay = Replay(cfg, cfg.replay, tokenizer, context) if cfg.replay is not None else None
    return Inputs(tokenizer, context, prompts, held_out, replay, whole, counts), "\n".join([*notes, *where])


def dry_run(cfg: PPOConfig, ranks: int | None) -> str:
    """Return the plan for so many ranks (None: those of the launcher); nothing is written."""
    parents = parents_of(cfg)
    ranks = ranks or distributed.world_size()
    return "\n".join([plan(cfg, parents, ranks)[1], told(PLANS["ppo"], cfg, ranks)])


def load_models(cfg: PPOConfig, parents: dict[str, Path], resumes: bool, whole: bool) -> Models:
    """Load the models, those that are only read `whole` or sharded; with `resumes` policy and critic are empty."""
    policy, helpful, safe = parents["checkpoint"], parents["helpfulness"], parents["safety"]
    updates = cfg.iterations * cfg.updates_per_iteration
    # The policy's schedule counts its own updates, which are those that it does not wait for its critic.
    moves = max(1, updates - min(cfg.critic_warmup, cfg.iterations) * cfg.updates_per_iteration)
    zero, checkpointing, seed = cfg.zero, cfg.activation_checkpointing, cfg.run.seed
    return Models(
        policy=language_engine(policy, cfg.optim, zero, moves, checkpointing, resumes=resumes),
        critic=scalar_engine(
            helpful if cfg.critic == HELPFULNESS else policy,
            cfg.critic_optim,
            zero,
            updates,
            seed,
            checkpointing,
            resumes,
        ),
        reference=frozen_model(policy, zero, scalar=False, whole=whole),
        helpfulness=frozen_model(helpful, zero, scalar=True, whole=whole),
        safety=frozen_model(safe, zero, scalar=True, whole=whole),
        apart={key: frozen_model(parents[key], zero, scalar=True, whole=whole) for key in cfg.scored_apart_by},
    )


def rollout_prompts(cfg: PPOConfig, prompts: list[Prompt], iteration: int) -> list[tuple[Prompt, int]]:
    """Return an iteration's prompts, each with its sample number: every prompt once an epoch, in an order of its own.

    The sample number is the epoch, so a prompt that falls twice into a batch gets different noise.
    """
    # A function of the iteration alone, as every order of samples: a resumed run needs no state of the loader.
    places = np.arange(iteration * cfg.rollout_prompts, (iteration + 1) * cfg.rollout_prompts)
    chosen, epochs = shuffled(places, len(prompts), cfg.run.seed).tolist(), (places // len(prompts)).tolist()
    return [(prompts[place], epoch) for place, epoch in zip(chosen, epochs, strict=True)]


class Clock:
    """Seconds of each phase, as ppo/seconds_<phase>."""

    def __init__(self) -> None:
        self.seconds = {f"ppo/seconds_{phase}": 0.0 for phase in ("act", "judge", "credit", "store", "learn")}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time what runs inside."""
        started = time.perf_counter()
        with heartbeat.phase(phase):
            yield
        self.seconds[f"ppo/seconds_{phase}"] = time.perf_counter() - started


if __name__ == "__main__":
    main("ppo", PPOConfig, train, plan=dry_run)
