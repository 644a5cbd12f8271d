"""The policy on held-out prompts: answers, scored by the reward models (the paper stops PPO by them, 3.2.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from llamatrain import distributed, heartbeat
from llamatrain.best import Best
from llamatrain.data.folds import conversation_key
from llamatrain.errors import UserError
from llamatrain.responses.models import frozen_model
from llamatrain.responses.prompts import Prompt, load_prompts
from llamatrain.responses.rollouts import Rollout, pack_rollouts, sample_rollouts
from llamatrain.responses.scoring import combined_logits, gate_closes, hold_back, scores_at_end
from llamatrain.settings import Sampling
from llamatrain.tokenizer import Tokenizer

from .experience import NO_ANSWER_QUANTILE, Models
from .measures import mean
from .passes import passes
from .ppo_config import LARGEST, PPOConfig

SCORE = "eval/score_combined"  # the mean of the scores by which the best checkpoint is chosen
SINCE_BEST = "eval/since_best"  # measurements in a row that were no better; at run.patience the run ends
Scored = tuple[int, Rollout, float, float]  # place among the prompts, answer, helpfulness and safety


class HeldOut:
    """Held-out prompts, which are answered greedily or by noise of their own: at every iteration by the same.

    `learned_from` are the prompts that are left to learn from.
    """

    def __init__(
        self,
        cfg: PPOConfig,
        tokenizer: Tokenizer,
        context: int,
        learned_from: list[Prompt],
        say: Callable[[str], None],
    ) -> None:
        """Read the prompts; without any nothing is measured. UserError where one is among those that PPO learns from."""
        self.cfg, self.tokenizer, self.context = cfg, tokenizer, context
        self.learned_from, self.prompts = learned_from, list[Prompt]()
        self.scored_apart_by: dict[str, Any] = {}  # key -> reward model
        if cfg.prompts_eval:
            room = cfg.sampling.max_new_tokens
            self.prompts = load_prompts(
                cfg.prompts_eval, tokenizer, context, room, cfg.max_prompts_eval, cfg.too_long, say
            )
            self._refuse_known(learned_from)
        elif cfg.hold_out:
            self.learned_from, self.prompts = divided(learned_from, cfg.hold_out)
        if self.prompts:
            say(f"{len(self.prompts):,} held-out prompts, answered every {cfg.run.eval_every} iterations")
        self.sampling = Sampling(cfg.eval_temperature, 1.0, cfg.sampling.max_new_tokens, cfg.run.seed, "ppo_eval")
        described = [[prompt.tokens for prompt in self.prompts], vars(self.sampling), cfg.scored_apart_by]
        self.measured_by = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

    def load(self, parents: Mapping[str, Path], whole: bool) -> None:
        """Load the reward models that score these answers alone, as the others are loaded."""
        for key in self.cfg.scored_apart_by:
            self.scored_apart_by[key] = frozen_model(parents[key], self.cfg.zero, scalar=True, whole=whole)

    def _refuse_known(self, learned_from: list[Prompt]) -> None:
        known = {tuple(prompt.tokens) for prompt in learned_from}
        twice = [prompt.id for prompt in self.prompts if tuple(prompt.tokens) in known]
        if twice:
            raise UserError(
                f"prompts_eval: {len(twice)} of {len(self.prompts)} prompts are also in prompts (the first is {twice[0]!r}): "
                "need prompts that are not learned from"
            )

    def follow(self, models: Models, step: int, best: Best) -> tuple[dict[str, float], bool]:
        """Measure after `step`; return what is logged of it, and whether the policy is the best so far."""
        found, scores = self.measure(models)
        is_best = best.add(step, found[SCORE], scores, self.measured_by)
        return found | ({SINCE_BEST: best.since} if best.asked else {}), is_best

    def measure(self, models: Models) -> tuple[dict[str, float], list[float]]:
        """Answer and score; return the means as eval/<name> and the prompts' combined scores, on all ranks alike."""
        with heartbeat.phase("evaluate"):
            rows = self._answered(models)
        # In the prompts' order: sums do not know of ranks.
        return self._means(
            sorted((row for part in distributed.gather_objects(rows) for row in part), key=lambda r: r[0])
        )

    def _answered(self, models: Models) -> list[Scored]:
        """Return this rank's share of the prompts, answered and scored."""
        with models.policy.generating() as model:  # under ZeRO-3 it needs all ranks
            own = distributed.shard(enumerate(self.prompts))
            rollouts = sample_rollouts(
                model,
                [prompt for _, prompt in own],
                [0] * len(own),
                self.sampling,
                self.tokenizer,
                self.cfg.generation_batch_size,
            )
        scores = self._scores(models, rollouts)
        return [(place, rollout, *pair) for (place, _), rollout, pair in zip(own, rollouts, scores, strict=True)]

    @torch.no_grad()
    def _scores(self, models: Models, rollouts: list[Rollout]) -> list[tuple[float, float]]:
        """Return helpfulness and safety of this rank's answers, with as many forward passes as every rank makes."""
        apart, found = self.scored_apart_by, list[tuple[float, float]]()
        judges = apart.get("eval_helpfulness", models.helpfulness), apart.get("eval_safety", models.safety)
        for part in passes(self.cfg, rollouts, self.context):
            packed = pack_rollouts(rollouts[part], self.context, distributed.device())
            pair = (scores_at_end(model, packed).tolist() for model in judges)
            found += zip(*pair, strict=True)
        return found

    def _means(self, rows: list[Scored]) -> tuple[dict[str, float], list[float]]:
        cfg, rollouts = self.cfg, [row[1] for row in rows]
        helpfulness, safety = torch.tensor([row[2] for row in rows]), torch.tensor([row[3] for row in rows])
        adversarial = [rollout.prompt.is_adversarial for rollout in rollouts]
        combined = combined_logits(helpfulness, safety, torch.tensor(adversarial), cfg.gate)
        is_answer = torch.tensor([rollout.is_answer for rollout in rollouts])
        held = hold_back(combined, is_answer, adversarial, NO_ANSWER_QUANTILE, cfg.gate).tolist()
        gated = gate_closes(safety, cfg.gate).tolist()
        kinds = {"harmless": False, "adversarial": True}
        of_kind = {name: [i for i, one in enumerate(adversarial) if one is kind] for name, kind in kinds.items()}
        found = {SCORE: mean(held)}
        if own := of_kind["harmless"]:
            found["eval/helpfulness_harmless"] = mean([float(helpfulness[i]) for i in own])
            found["eval/gated_harmless"] = mean([float(gated[i]) for i in own])
        if own := of_kind["adversarial"]:
            found["eval/safety_adversarial"] = mean([float(safety[i]) for i in own])
        found["eval/finished"] = mean([float(rollout.finished) for rollout in rollouts])
        found["eval/response_length"] = mean([float(len(rollout.tokens)) for rollout in rollouts])
        return found, held


def divided(prompts: list[Prompt], count: int) -> tuple[list[Prompt], list[Prompt]]:
    """Return the prompts to learn from and `count` to hold out, at most one in LARGEST, whose opening no other shares.

    By a hash of a conversation's first question, and by another one than that of folds, by which prompts may be chosen.
    """
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(conversation_key({"messages": prompt.messages}), []).append(place)
    held, wanted = set[int](), min(count, max(1, len(prompts) // LARGEST))
    for key in sorted(places, key=lambda key: hashlib.sha256(f"held out of PPO/{key}".encode()).digest()):
        if len(held) + len(places[key]) <= wanted:
            held.update(places[key])
    return [p for i, p in enumerate(prompts) if i not in held], [prompts[i] for i in sorted(held)]
