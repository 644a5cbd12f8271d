"""From text to a chat model, in rounds of rejection sampling with PPO after the last (paper 3.2: V1 to V5).

What there is no data for is left out, and noted with what it would need.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llamatrain.config.presets import preset_overrides
from llamatrain.data.kinds import EXAMPLES
from llamatrain.errors import UserError
from llamatrain.keys import check_values, least, one_of

from ..graph import Graph, Stage
from ..measure.stages import measure_kept
from .attention import ghost_attention
from .measuring import Rewards, benchmark, finals, judge_what_was_learned_from, measure, safety_benchmark

METHODS = ("chat", "safety_scaling")  # the graphs that there are (launch/graphs/methods.py)
KINDS = ("helpfulness", "safety")
EXTRA = ("long_dialogues", "long_dialogues_eval", "prompts_borderline")  # roles without which nothing usual is left out
BASES = ("base", "sft")
REPLAYED = ("sft", "rejection_sampling")  # fine-tunings into which pretraining text can be mixed
HELD_OUT = 11  # of people's ratings one part in so many, by the hash of the prompt


@dataclass
class Pairs:
    """Sources of preferences, by kind."""

    helpfulness: list[str]
    safety: list[str]

    def of(self, kind: str) -> list[str]:
        """Return the sources of a kind."""
        sources: list[str] = getattr(self, kind)
        return sources

    def __bool__(self) -> bool:
        return bool(self.helpfulness or self.safety)


@dataclass
class Data:
    """Which files play which role; configs/data/mine.yaml says what each means."""

    root: str | None
    world: bool
    checkpoint: str | None
    documents: list[str]
    documents_eval: list[str]
    dialogues: list[str]
    dialogues_eval: list[str]
    long_dialogues: list[str]
    long_dialogues_eval: list[str]
    prompts: list[str]
    prompts_eval: list[str]
    prompts_borderline: list[str]
    preferences: Pairs
    preferences_eval: Pairs
    ratings: str | None


@dataclass
class Chat:
    """What the method leaves open; configs/pipeline.yaml says what each key means."""

    method: str = field(metadata=one_of(METHODS))
    safety_shares: list[float]
    continue_pretraining: bool
    rounds: int = field(metadata=least(1))
    people_from: int = field(metadata=least(1))
    folds: int = field(metadata=least(1))
    mix_share: dict[str, float | None]
    rejection_base: str = field(metadata=one_of(BASES))
    replay: dict[str, float]
    ppo: bool
    gatt: int | None = field(metadata=least(1))
    distill: int | None = field(metadata=least(1))
    benchmark: str | None
    safety_benchmark: str | None
    measure_kept: list[str]

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        if not all(0 <= share <= 1 for share in self.safety_shares):
            raise UserError(f"safety_shares={list(self.safety_shares)}: need numbers from 0 to 1")


@dataclass(frozen=True)
class Rated:
    """Preferences that came together, and the held-out ones among them.

    In cross-validation the model of fold k does not see part k of `parts`, by the hash of the prompt.
    """

    train: Pairs
    held_out: Pairs
    parts: int


def with_files_to_come(cfg: Chat, data: Data) -> tuple[Data, list[str]]:
    """Return data in which no role has a file with a stand-in in each (`graph.TO_COME`), and the roles that have got one.

    So the whole chain can be looked at before there are data. Data with any file stay as they are.
    """
    roles = [field.name for field in fields(Data) if field.name not in ("root", "world", *EXTRA)]
    if data.world or any(getattr(data, role) for role in roles):
        return data, []
    roles = [role for role in roles if role != "checkpoint" or cfg.continue_pretraining]
    made: dict[str, Any] = {}
    for role in roles:
        file, kind = f"<data.{role}>", type(getattr(data, role))
        made[role] = Pairs([file], [file]) if kind is Pairs else [file] if kind is list else file
    return replace(data, **made), roles


def chat(g: Graph, cfg: Chat, data: Data) -> None:
    """Add all stages that there are data for."""
    world = g.add("toyworld", "world") if data.world else None
    if world is not None:
        data = made_by(world, data)
    corpus, base = pretrained(g, cfg, data)
    models = {"base": base}
    rewards: dict[str, list[Stage]] = {}
    sampled: list[Stage] = []  # by rejection sampling, a stage per round
    further: list[str] = []  # rows of distillation and of Ghost Attention so far
    if data.dialogues:
        text = replay(g, cfg, corpus, "sft")
        sft = g.add("sft", checkpoint=base, train=data.dialogues, eval=data.dialogues_eval, **text)
        models["sft"] = policy = sft.final
        rated = [Rated(data.preferences, data.preferences_eval, cfg.folds)] if data.preferences else []
        for n in range(1, cfg.rounds + 1):
            with g.round(n):
                # New preferences come from the newest model, so that the reward models know what it writes (paper 3.2.1).
                new = collected(g, cfg, data, world, models, n)
                rated += new
                if new or n == 1:  # without new ratings the former round's reward models serve
                    rewards = reward_models(g, cfg, sft, rated)
                if not can_tune(g, data, rewards):
                    break
                start = models[cfg.rejection_base]
                if cfg.distill is not None and n >= cfg.distill:
                    read = {"checkpoint": policy, "safety": rewards["safety"][0].final}
                    further.append(g.add("distill", prompts=data.prompts, round=later(n), **read) / "distilled.jsonl")
                if cfg.gatt is not None and n >= cfg.gatt:
                    further.append(ghost_attention(g, data, world, policy, later(n)))
                # The best of all earlier rounds: the paper's V3, tuned on its last round alone, forgot how to rhyme.
                earlier = {"earlier": [*(stage / "best.jsonl" for stage in sampled), *further] or None}
                tuned = {"prompts": data.prompts, "round": later(n), **finals(rewards)}
                own = {"sft_train": data.dialogues, **replay(g, cfg, corpus, "rejection_sampling"), **earlier}
                sampled.append(g.add("rejection_sampling", checkpoint=policy, base=start, **tuned, **own))
                models[f"rs_v{n}"] = policy = sampled[-1].final
        if sampled and cfg.ppo:
            apart = {f"eval_{kind}": model for kind, model in finals(rewards, unused=True).items() if cfg.folds > 1}
            ppo = g.add("ppo", checkpoint=policy, prompts=data.prompts, **finals(rewards), **apart)
            models["ppo"] = ppo.final
    else:
        g.leave_out("fine-tuning and all later stages", "data.dialogues")
    if world is not None:
        judge_what_was_learned_from(g, world, sampled, "ppo" in models)
    measure(g, data, world, models, rewards, corpus)
    if cfg.benchmark is not None:
        benchmark(g, cfg.benchmark, models)
    if cfg.safety_benchmark is not None:
        safety_benchmark(g, cfg.safety_benchmark, models)
    for name in cfg.measure_kept:
        measure_kept(g, name)


def made_by(world: Stage, data: Data) -> Data:
    """Return the data with the toy world's files in every role that is not given."""
    made: dict[str, Any] = {}
    for role in ("documents", "documents_eval", "dialogues", "dialogues_eval", "prompts", "prompts_eval"):
        made[role] = getattr(data, role) or [world / f"{role}.jsonl"]
    return replace(data, **made)


def pretrained(g: Graph, cfg: Chat, data: Data) -> tuple[Stage | None, str]:
    """Train a tokenizer and a base model (paper 2), or take one that is there, as it is or pretrained further.

    Return the corpus and the checkpoint.
    """
    if data.checkpoint is None and not data.documents:
        raise UserError("data: need data.documents (texts to pretrain on), or data.checkpoint (a model to start from)")
    if cfg.continue_pretraining and (data.checkpoint is None or not data.documents):
        need = "data.checkpoint (a model to start from)" if data.checkpoint is None else "data.documents"
        raise UserError(f"continue_pretraining=true: need {need}")
    if data.checkpoint is not None and not data.documents:
        return None, data.checkpoint
    tokenizer: Stage | str = data.checkpoint or g.add("tokenizer", documents=data.documents)
    held_out = data.documents_eval or None
    corpus = g.add("corpus", documents=data.documents, eval_documents=held_out, tokenizer=tokenizer)
    if data.checkpoint is None:
        return corpus, g.add("pretrain", corpus=corpus, tokenizer=tokenizer).final
    if cfg.continue_pretraining:
        return corpus, g.add("pretrain", checkpoint=data.checkpoint, corpus=corpus).final
    return corpus, data.checkpoint


def refuse_other_start(stages: Sequence[Stage], presets: Sequence[str]) -> None:
    """Refuse `pretrain.checkpoint=`, typed or from a preset, where the chain makes a tokenizer for random weights."""
    for stage in stages:
        if stage.program == "pretrain" and "checkpoint" not in stage.settings:
            theirs = [override for name in presets for override in preset_overrides("pretrain", name)]
            typed = [o.lstrip("+") for o in (*theirs, *stage.overrides)]
            for start in (o for o in typed if o.startswith("checkpoint=") and o != "checkpoint=null"):
                raise UserError(
                    f"{stage.name}.{start}: the tokenizer and the corpus have to be the model's, too; need "
                    f"data.{start} continue_pretraining=true"
                )


def replay(g: Graph, cfg: Chat, corpus: Stage | None, program: str) -> dict[str, Any]:
    """Return what mixes pretraining text into a fine-tuning: small models forget without it."""
    share = cfg.replay[program]
    if share and corpus is None:
        g.leave_out(f"replay in {program}", "data.documents")
    return {"replay": corpus, "replay_fraction": share} if share and corpus is not None else {}


# --- preferences and reward models -------------------------------------------------------------------------------


def collected(g: Graph, cfg: Chat, data: Data, world: Stage | None, models: Mapping[str, str], n: int) -> list[Rated]:
    """Have comparisons of the newest model and the one before it rated: by the world's annotators, or by people."""
    ratings = data.ratings if n >= cfg.people_from else None
    if not ratings and (world is None or data.preferences):
        return []
    if not data.prompts:
        g.leave_out(f"comparisons of round {n}", "data.prompts")
        return []
    newest, before = list(models.values())[-1], list(models.values())[-2]
    variants = {"checkpoint_a": newest, "checkpoint_b": before if n > 1 else None}
    pairs = g.add("compare", prompts=data.prompts, round=later(n), **variants)
    if ratings:
        file, compared = f"{ratings}/v{n}_preferences.jsonl", pairs / "comparisons.jsonl"
        need = f"preferences between the responses in {compared}, rows of {EXAMPLES['preference']}"
        path = g.wait_for(file, need, comparisons=compared, out=file)
        parts = parts_of(data.prompts, cfg.folds if cfg.folds > 1 else HELD_OUT)
        rest = "" if cfg.folds > 1 else f"@without0/{parts}"  # folds hold out their own
        train = {kind: [f"{path}@{kind}{rest}"] for kind in KINDS}
        return [Rated(Pairs(**train), Pairs(**{kind: [f"{path}@{kind}@fold0/{parts}"] for kind in KINDS}), parts)]
    rate = g.add("rate", world=world, comparisons=[pairs / "comparisons.jsonl"])
    train, held_out = ({kind: [rate / f"preferences_{kind}{end}.jsonl"] for kind in KINDS} for end in ("", "_eval"))
    return [Rated(Pairs(**train), Pairs(**held_out), cfg.folds)]


def later(n: int) -> int | None:
    """Return the number of a round after the first, whose samples are drawn by noise of their own."""
    return n if n > 1 else None


def parts_of(prompts: Sequence[str], least: int) -> int:
    """Return into how many parts, at least, ratings of prompts are divided by the prompts' hash: each part has some.

    The prompts may themselves be some parts of a file by the same hash, as `new` leaves out a tenth or a fifth: of
    ratings of `@without0/5`, `@fold0/5` holds none. So the number has no divisor in common with theirs.
    """
    theirs = [int(count) for source in prompts for count in re.findall(r"@(?:fold|without)\d+/(\d+)", source)]
    return next(parts for parts in itertools.count(least) if all(math.gcd(parts, one) == 1 for one in theirs))


def pairs_of(rated: list[Rated], kind: str, without: int | None) -> list[str]:
    """Return the sources of a kind's preferences so far, to train on: all, or without a fold."""
    return [
        source if without is None else f"{source}@without{without}/{batch.parts}"
        for batch in rated
        for source in batch.train.of(kind)
    ]


def reward_models(g: Graph, cfg: Chat, start: Stage, rated: list[Rated]) -> dict[str, list[Stage]]:
    """Train the reward models of the kinds that there are preferences of; return those of all folds.

    Each is measured on held-out preferences of its kind, with the other kind's model beside it (table 8).
    """
    kinds = [kind for kind in KINDS if any(batch.train.of(kind) for batch in rated)]
    made = {kind: [reward_model(g, cfg, kind, k, start, rated) for k in range(cfg.folds)] for kind in kinds}
    for kind in kinds:
        measured = list[Stage]()
        for k, model in enumerate(made[kind]):
            held_out = held_out_of(cfg, kind, k, rated)  # of all rounds, so that theirs compare on the same pairs
            other = next((made[one][k].final for one in kinds if one != kind), None)
            about = {"checkpoint": model.final, "other": other, "preferences": held_out}
            name = f"accuracy_{kind}{'' if cfg.folds == 1 else f'_{k}'}"
            measured += [g.add("reward.evaluate", name, **about)] if held_out else []
        if not measured:
            g.leave_out(f"the accuracy of the {kind} reward model", f"data.preferences_eval.{kind}, or folds=5")
        elif cfg.folds > 1:
            g.add("reward.evaluate", f"accuracy_{kind}", pool=measured)
    return made


def held_out_of(cfg: Chat, kind: str, k: int, rated: list[Rated]) -> list[str]:
    """Return the held-out preferences of a kind that were rated; in cross-validation fold k of the newest.

    That one model k does not see: the models together measure every pair once, but for ratings in more parts than folds.
    """
    if cfg.folds > 1:
        return [f"{source}@fold{k}/{rated[-1].parts}" for source in rated[-1].train.of(kind)]
    return [source for one in rated for source in one.held_out.of(kind)]


def reward_model(g: Graph, cfg: Chat, kind: str, k: int, start: Stage, rated: list[Rated]) -> Stage:
    """Train a reward model on all preferences so far but those of its fold; `mix` are the other kind's (paper 3.2.2)."""
    (other,) = (one for one in KINDS if one != kind)
    end, without = ("", None) if cfg.folds == 1 else (f"_{k}", k)
    train, rest = (pairs_of(rated, one, without) for one in (kind, other))
    share = cfg.mix_share[kind]
    mix = {"mix": rest, "mix_share": share} if rest and share != 0 else {}
    held_out = held_out_of(cfg, kind, k, rated[-1:])
    own = {"kind": kind, "checkpoint": start.final, "train": train, "eval": held_out}
    return g.add("reward", f"reward_{kind}{end}", **own, **mix)


def can_tune(g: Graph, data: Data, rewards: Rewards) -> bool:
    """Tell whether there is what rejection sampling and PPO need; note it where there is not."""
    need = [f"data.preferences.{kind} (or data.ratings)" for kind in KINDS if kind not in rewards]
    need += [] if data.prompts else ["data.prompts"]
    if need:
        g.leave_out("rejection sampling and PPO", " and ".join(need))
    return not need
