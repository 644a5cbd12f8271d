"""The one supervised loop: pretraining, fine-tuning, reward models and rejection-sampling fine-tuning."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

from . import distributed, heartbeat, hf_tokenizer
from .engine.learning import Engine
from .errors import UserError
from .flops import Utilisation
from .losses import Batch
from .prefetch import Batches, Prefetch, on_device
from .run import Run
from .spikes import Guard
from .tokenizer import Tokenizer

T = TypeVar("T")
LossFn = Callable[[Any, Batch], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def fit(
    engine: Engine,
    batches: Batches,
    loss_fn: LossFn,
    run: Run,
    total_steps: int,
    tokenizer: Tokenizer,
    evaluate: Callable[[], dict[str, float]] | None = None,
    guard: Guard | None = None,
    utilisation: Utilisation | None = None,
    measure_start: bool = False,
    samples: Callable[[int], None] | None = None,
) -> None:
    """Train to `total_steps`, resuming where the run stopped; checkpoints, metrics and signals as the run says.

    `loss_fn` returns sums over a micro-batch; they are divided by the weight (target tokens, pairs) of the whole global
    batch, so micro-batch size, accumulation and ranks change neither loss nor gradients. A `guard` rolls the run back
    where a step is a loss spike; without one (or with its detector off) a loss that is not finite ends the run. With
    `measure_start` the held-out data are also evaluated before the first step, logged as step 0. A step whose eval/loss is
    the lowest so far is saved and linked as `best`, and training ends early where the run has run.patience (best.py).
    `samples` is called after each step, on all ranks, to write what the model answers where that is due.
    """
    engines = {"model": engine}

    def save(step: int) -> None:
        run.save(step, engines, tokenizer, guard.state() if guard is not None else None)

    step = _resume(run, engines, tokenizer, guard, save)
    _begin(run, step, total_steps, evaluate if measure_start else None)
    bar = run.progress(total_steps, run.program, "steps", min(step, total_steps), run.config.log_every)
    with Prefetch(batches, engine.device, total_steps) as ahead, bar, heartbeat.phase("train"):
        loss_at = functools.partial(_loss_at, engine, batches, loss_fn, ahead)
        while step < total_steps and not run.best.exhausted():
            if guard is not None and not guard.look_ahead(step, total_steps, run, loss_at):
                save(step)
                run.stop(step)
            metrics = _step_at(step, engine, ahead, loss_fn, run)
            if guard is not None and (spike := guard.check(metrics)) is not None:
                ahead.forget()
                step = guard.undo(spike, metrics, step, run, engines)
                bar.back(step)
                continue
            step += 1  # from here on the number of steps that are done, which metrics and checkpoints bear
            _refuse_broken(metrics, step, run)
            metrics |= _derived(metrics, guard, utilisation)
            if evaluate is not None and run.config.evaluates_after(step, total_steps):
                metrics.update(evaluate())
            run.log(step, metrics)
            if samples is not None:
                samples(step)
            best = "eval/loss" in metrics and run.best.add(step, metrics["eval/loss"])
            bar.update(loss=metrics["train/loss"], tokens_per_second=round(metrics["train/tokens_per_second"]))
            _save_or_stop(run, step, total_steps, save, best)
    run.finish(step)


def _resume(
    run: Run, engines: dict[str, Engine], tokenizer: Tokenizer, guard: Guard | None, save: Callable[[int], None]
) -> int:
    """Restore the newest checkpoint into the engines and the guard; return the steps that are done."""
    if run.is_main:
        hf_tokenizer.announce(tokenizer, run.print)
    step, state = run.resume(engines)
    if guard is not None:
        guard.resume(run, state)
        if guard.config.enabled and not state:
            save(0)  # so that there is always something to roll back to
    return step


def _begin(run: Run, step: int, total_steps: int, evaluate: Callable[[], dict[str, float]] | None) -> None:
    """Note the length; measure where nothing was trained yet, if there is what measures; say where nothing is left."""
    run.expect(total_steps)
    if evaluate is not None and step == 0:
        first = evaluate()
        run.log(0, first)
        run.print(f"held-out loss before the first step: {first['eval/loss']:.4f}")
    if step >= total_steps:
        run.print(f"{run.program}: nothing left to train, the run is already at step {step} of {total_steps}")


def _save_or_stop(run: Run, step: int, total_steps: int, save: Callable[[int], None], best: bool) -> None:
    """Save where a checkpoint is due or a signal asked to stop, and then stop, unless this was the last step anyway."""
    run.saver.check()
    stop, last = run.stop_requested(), step == total_steps or run.best.exhausted()
    if stop or best or last or run.config.saves_after(step):
        save(step)
    if stop and not last:
        run.stop(step)


def _step_at(step: int, engine: Engine, batches: Batches, loss_fn: LossFn, run: Run) -> dict[str, float]:
    """Read a step's batches and train on them; norms by kind of tensor are taken where a line of the log is due."""
    detailed = (step + 1) % run.config.log_every == 0
    heartbeat.at_step(step)
    heartbeat.beat("read")
    started = time.perf_counter()
    micro_batches, failure = _tried(functools.partial(batches.batch_at, step))
    reading = time.perf_counter() - started
    return train_step(engine, micro_batches or [], loss_fn, detailed, failure, reading)


def _tried(read: Callable[[], T]) -> tuple[T | None, str]:
    """Return what was read, or None and what is wrong: a rank that ended alone would leave the others waiting."""
    try:
        return read(), ""
    except (UserError, OSError) as error:
        return None, str(error)


def _loss_at(engine: Engine, batches: Batches, loss_fn: LossFn, ahead: Prefetch, step: int) -> float:
    """Return the loss of a step's global batch, without a gradient; then its samples may be skipped."""
    ahead.forget()

    def read() -> Iterator[Batch]:  # a generator: a batch that cannot be read fails inside, where ranks agree on it
        yield from batches.batch_at(step)

    return evaluate_loss(engine, read(), loss_fn)["eval/loss"]


def _refuse_broken(metrics: dict[str, float], step: int, run: Run) -> None:
    for key in ("train/loss", "train/grad_norm"):  # a loss may be fine and its gradient not
        if not math.isfinite(metrics[key]):
            raise UserError(
                f"{key} is {metrics[key]} at step {step}: lower optim.lr or check the data; "
                f"the last checkpoint in {run.checkpoints} is from before it"
            )


def _derived(metrics: dict[str, float], guard: Guard | None, utilisation: Utilisation | None) -> dict[str, float]:
    """Return what else a line of the log says of a step: how much is skipped, and how busy the devices were."""
    skipped = {} if guard is None else {"train/skipped_samples": float(len(guard.batches.skip))}
    return skipped | (utilisation.metrics(metrics["train/tokens_per_second"]) if utilisation is not None else {})


def train_step(
    engine: Engine,
    micro_batches: list[Batch],
    loss_fn: LossFn,
    detailed: bool = False,
    failure: str = "",
    reading: float = 0.0,
) -> dict[str, float]:
    """Take one optimizer step on a global batch; return its metrics, averaged over the global weight.

    `detailed` adds the gradient norm by kind of tensor, train/grad_norm/<kind>. A step whose gradient is not finite
    leaves the weights as they were. Where one rank has a `failure` to tell, all raise it. The step's time begins before
    this rank waited `reading` seconds for its batches; train/read_seconds is the mean of the ranks', train/padding the
    share of the batches' places that hold no token.
    """
    started = time.perf_counter() - reading
    # 1. The weight of the whole global batch, before any loss: each is divided by it (never a mean of means).
    own = sum(float(batch["weight"]) for batch in micro_batches)
    own_places = sum(batch["segment_ids"].numel() for batch in micro_batches)
    sums_of_ranks = torch.tensor([own, own_places, reading, bool(failure)], dtype=torch.float64)
    weight, places, readings, failed = distributed.all_reduce_sum(sums_of_ranks).tolist()
    if failed:
        distributed.fail_together(failure)
    if weight == 0:
        raise UserError("a global batch has no target tokens: every row's loss mask is empty")
    # 2. Forward and backward.
    sums: dict[str, torch.Tensor] = {}
    for batch in micro_batches:
        there = on_device(batch, engine.device)
        loss, extra = loss_fn(engine, there)
        engine.backward(loss / weight)
        _add(sums, loss, {**extra, "tokens": (there["segment_ids"] > 0).sum()})
    # 3. Update; the learning rate is read first, as the step moves the schedule on.
    lr = engine.lr
    norm = engine.step(detailed)
    totals = dict(zip(sums, distributed.all_reduce_sum(torch.stack(list(sums.values()))).tolist(), strict=True))
    tokens = totals.pop("tokens")
    seconds = time.perf_counter() - started
    return {
        **{f"train/{key}": value / weight for key, value in totals.items()},
        "train/lr": lr,
        "train/grad_norm": norm,
        **{f"train/grad_norm/{kind}": value for kind, value in engine.grad_norms.items()},
        "train/tokens": tokens,
        "train/padding": 1 - tokens / places,
        "train/tokens_per_second": tokens / seconds,
        "train/step_seconds": seconds,
        "train/read_seconds": readings / distributed.world_size(),
    }


def _add(sums: dict[str, torch.Tensor], loss: torch.Tensor, extra: dict[str, torch.Tensor]) -> None:
    """Add a micro-batch's loss and measures to the sums, in float64 and where they are: nothing waits for the device."""
    for key, value in {"loss": loss, **extra}.items():
        zero = torch.zeros((), dtype=torch.float64, device=loss.device)
        sums[key] = sums.get(key, zero) + value.detach().double()


@torch.no_grad()
def evaluate_loss(engine: Engine, batches: Iterable[Batch], loss_fn: LossFn) -> dict[str, float]:
    """Return the averages of `loss_fn` over batches (this rank's share of them), over all ranks, as eval/<key>.

    Every rank has as many batches. UserError on all of them where one cannot be read.
    """
    engine.module.eval()
    sums: dict[str, torch.Tensor] = {}
    weight = 0.0
    # What was compiled is for the training step; without gradients it would be compiled once more.
    eager = torch.compiler.set_stance("force_eager") if engine.compiled else contextlib.nullcontext()
    with eager, heartbeat.phase("evaluate"):
        for batch in _together(batches):
            loss, extra = loss_fn(engine, on_device(batch, engine.device))
            weight += float(batch["weight"])
            _add(sums, loss, extra)
    engine.module.train()
    weight = distributed.all_reduce_sum(weight)
    total = distributed.all_reduce_sum(torch.stack(list(sums.values()))) / max(weight, 1.0)
    return {f"eval/{key}": float(value) for key, value in zip(sums, total, strict=True)}


def _together(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches. Before each the ranks agree that all could read it: at ZeRO-3 a forward pass needs every rank."""
    rows = iter(batches)
    while True:
        batch, failure = _tried(functools.partial(next, rows, None))
        if distributed.any_rank(bool(failure)):
            distributed.fail_together(failure)
        if batch is None:
            return
        yield batch
