"""What an iteration of PPO has sampled and judged so far, kept on disk: interrupted, it goes on from there.

It is kept until all of it is stored (store.py), and serves the run that starts at this very iteration again, with the same
settings on as many ranks: the same weights would sample and judge the same, bit by bit. Numbers are float32, which JSON keeps.

    runs/<name>/chunks/iteration_00000007/   the rollouts and the verdicts, each in chunks of at most `chunk_responses`
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch

from llamatrain import distributed
from llamatrain.engine.learning import Engine
from llamatrain.keys import flatten, former_values
from llamatrain.responses.chunks import Chunks, chunk_key
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import Rollout, sample_rollouts
from llamatrain.run import Run
from llamatrain.shares import largest_share
from llamatrain.tokenizer import Tokenizer

from .experience import Judged, Models, judge
from .ppo_config import SAMPLER, PPOConfig

R = TypeVar("R", bound=Mapping[str, object])

PLACE = "chunks"


class RolloutPart(TypedDict):
    """A rollout without its prompt."""

    tokens: list[int]
    finished: bool
    logprobs: list[float]
    is_answer: bool
    entropy: list[float]  # the sampler's; empty where the policy's is measured as it judges


class JudgedPart(TypedDict):
    """The verdicts on a rollout."""

    helpfulness: float
    safety: float
    logprobs: list[float]
    reference: list[float]
    values: list[float]
    entropy: list[float]


class Kept:
    """The rollouts and verdicts of one iteration; `key` is what they depend on beside it."""

    def __init__(self, run: Run, key: Mapping[str, Any], iteration: int, count: int, chunk_responses: int) -> None:
        self.run, self.count = run, count
        self.key = {**key, "ranks": distributed.world_size()}
        self.place = f"{PLACE}/iteration_{iteration:08d}"
        self.size, self.order = division(count, chunk_responses)

    def rollouts(self) -> Chunks[RolloutPart]:
        """Return the chunks of rollouts."""
        return Chunks(self.run, {**self.key, "of": "rollouts"}, self.count, self.size, RolloutPart, place=self.place)

    def judged(self) -> Chunks[JudgedPart]:
        """Return the chunks of verdicts, which all ranks judge together."""
        key = {**self.key, "of": "verdicts"}
        return Chunks(self.run, key, self.count, self.size, JudgedPart, together=True, place=self.place)

    def in_order(self, chunks: Chunks[R]) -> list[R]:
        """Return all rows in the order of the prompts, on every rank."""
        rows: list[R | None] = [None] * self.count
        for place, row in zip(self.order, chunks.gathered(), strict=True):
            rows[place] = row
        return rows  # type: ignore[return-value]


def division(count: int, chunk_responses: int) -> tuple[int, list[int]]:
    """Return the size of an iteration's chunks and the prompts' places in their order: chunk by chunk, dealt to the ranks in turn."""
    ranks = distributed.world_size()
    share = largest_share(count, ranks)
    size = math.ceil(share / math.ceil(share / chunk_responses))  # equal ones, at most `chunk_responses`
    # Rank by rank, and of each rank every world_size-th prompt, as `distributed.shard` assigns them.
    return size, [i for rank in range(ranks) for i in range(rank, count, ranks)]


def kept_key(cfg: PPOConfig, parents: dict[str, Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that rollouts and verdicts depend on beside the iteration: with other settings none is taken over.

    A key at what it was before there was one is left out, so that what an earlier version kept and stored stays in use.
    """
    flat, former = flatten({name: value for name, value in settings.items() if name != "run"}), former_values(PPOConfig)
    settings = {key: value for key, value in flat.items() if key not in former or value != former[key]}
    return chunk_key(parents, cfg.prompts, settings=settings, seed=cfg.run.seed)


def respond(
    cfg: PPOConfig,
    model: Any,
    wanted: list[tuple[Prompt, int]],
    tokenizer: Tokenizer,
    on_step: Callable[[], None] | None = None,
) -> list[Rollout]:
    """Sample a response to each prompt with its sample number."""
    return sample_rollouts(
        model,
        [prompt for prompt, _ in wanted],
        [number for _, number in wanted],
        cfg.sampling.seeded(cfg.run.seed, "ppo"),
        tokenizer,
        cfg.generation_batch_size,
        on_step=on_step,
        entropies=cfg.old_logprobs == SAMPLER,
    )


def act(
    cfg: PPOConfig,
    policy: Engine,
    wanted: list[tuple[Prompt, int]],
    tokenizer: Tokenizer,
    kept: Kept,
    leave: Callable[[], None],
) -> list[Rollout]:
    """Return a response to each prompt with its sample number, in order, on every rank; each samples its share.

    `leave` is called by all ranks together, and may end the run.
    """
    chunks = kept.rollouts()
    if chunks.missing():
        with policy.generating() as model:  # under ZeRO-3 it needs all ranks, also those that have their chunks

            def rows_of(items: range) -> list[RolloutPart]:
                own = [wanted[kept.order[item]] for item in items]
                return [rollout_part(r) for r in respond(cfg, model, own, tokenizer, kept.run.interrupt)]

            chunks.make(rows_of)
        leave()  # out here, where each rank has its own part of the weights again
    return [rollout_of(prompt, part) for (prompt, _), part in zip(wanted, kept.in_order(chunks), strict=True)]


def judge_all(
    cfg: PPOConfig, models: Models, rollouts: list[Rollout], context: int, kept: Kept, leave: Callable[[], None]
) -> list[Judged]:
    """Return the rollouts with their verdicts, in order, on every rank; each judges its share. `leave` as in `act`."""
    chunks = kept.judged()
    if chunks.missing():

        def rows_of(items: range) -> list[JudgedPart]:
            own = [rollouts[kept.order[item]] for item in items]
            return [judged_part(judged) for judged in judge(cfg, models, own, context, leave)]

        chunks.make(rows_of)
        leave()
    return [judged_of(rollout, part) for rollout, part in zip(rollouts, kept.in_order(chunks), strict=True)]


def judge_anew(cfg: PPOConfig, models: Models, rollouts: list[Rollout], context: int) -> list[Judged]:
    """Judge stored rollouts in the chunks of `judge_all`, whose rounding depends on what shares a row; keep nothing."""
    size, order = division(len(rollouts), cfg.chunk_responses)
    found: dict[int, Judged] = {}
    for first in range(0, len(order), size * distributed.world_size()):
        begin = first + distributed.rank() * size
        places = order[begin : begin + size]
        judged = judge(cfg, models, [rollouts[place] for place in places], context)
        for part in distributed.gather_objects(list(zip(places, judged, strict=True))):
            found.update(part)
    return [found[place] for place in range(len(rollouts))]


def forget(run: Run, but: int | None = None) -> None:
    """Delete what is kept of iterations, but of one: those that are stored, or that a run which starts there makes again."""
    for left in (run.folder / PLACE).glob("iteration_*") if run.is_main else ():
        if but is None or left.name != f"iteration_{but:08d}":
            shutil.rmtree(left, ignore_errors=True)


def rollout_part(rollout: Rollout) -> RolloutPart:
    """Return a rollout as a row."""
    return {
        "tokens": rollout.tokens,
        "finished": rollout.finished,
        "logprobs": rollout.sampler_logprobs,
        "is_answer": rollout.is_answer,
        "entropy": rollout.sampler_entropies,
    }


def rollout_of(prompt: Prompt, part: RolloutPart) -> Rollout:
    """Return the rollout that a row was made from."""
    return Rollout(prompt, part["tokens"], part["finished"], part["logprobs"], part["is_answer"], part["entropy"])


def judged_part(judged: Judged) -> JudgedPart:
    """Return the verdicts on a rollout as a row."""
    return {
        "helpfulness": judged.helpfulness,
        "safety": judged.safety,
        "logprobs": judged.logprobs.tolist(),
        "reference": judged.reference.tolist(),
        "values": judged.values.tolist(),
        "entropy": judged.entropy.tolist(),
    }


def judged_of(rollout: Rollout, part: JudgedPart) -> Judged:
    """Return the judged rollout that a row was made from."""
    per_token = (torch.tensor(part[name]) for name in ("logprobs", "reference", "values", "entropy"))
    return Judged(rollout, part["helpfulness"], part["safety"], *per_token)
