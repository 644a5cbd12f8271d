"""The policy on held-out prompts: answers, scored by the reward models (the paper stops PPO by them, 3.2.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import torch

from llamatrain import distributed, heartbeat
from llamatrain.best import Best
from llamatrain.data.folds import conversation_key
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.responses.prompts import Prompt, load_prompts
from llamatrain.responses.rollouts import Rollout, pack_rollouts, sample_rollouts
from llamatrain.responses.scoring import scores_at_end
from llamatrain.settings import Sampling
from llamatrain.tokenizer import Tokenizer

from .experience import Models, Scored, rewarded
from .measures import mean, score_metrics
from .passes import passes
from .ppo_config import LARGEST, PPOConfig

SCORE = "eval/score_combined"  # the mean of the scores by which the best checkpoint is chosen
SINCE_BEST = "ppo/since_best"  # measurements in a row that were no better; at run.patience the run ends


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
        if cfg.prompts_eval:
            self.prompts = load_prompts(
                cfg.prompts_eval,
                tokenizer,
                context,
                cfg.sampling.max_new_tokens,
                cfg.max_prompts_eval,
                cfg.too_long,
                say,
                BadRows(cfg.bad_rows),
            )
            self._refuse_known(learned_from)
        elif cfg.hold_out:
            self.learned_from, self.prompts = divided(learned_from, cfg.hold_out)
        if self.prompts:
            say(f"{len(self.prompts):,} held-out prompts, answered every {cfg.run.eval_every} iterations")
        self.sampling = Sampling(cfg.eval_temperature, 1.0, cfg.sampling.max_new_tokens, cfg.run.seed, "ppo_eval")
        described = [[prompt.tokens for prompt in self.prompts], vars(self.sampling), cfg.scored_apart_by]
        self.measured_by = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

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
            parts = distributed.gather_objects(self._answered(models))
        # In the prompts' order: sums do not know of ranks.
        scored = [one for _, one in sorted((row for part in parts for row in part), key=lambda row: row[0])]
        combined, gated = rewarded(self.cfg, scored)
        scores, rollouts = combined.tolist(), [one.rollout for one in scored]
        found = {
            SCORE: mean(scores),
            **score_metrics("eval", scored, gated),
            "eval/finished": mean([float(rollout.finished) for rollout in rollouts]),
            "eval/response_length": mean([float(len(rollout.tokens)) for rollout in rollouts]),
        }
        return found, scores

    def _answered(self, models: Models) -> list[tuple[int, Scored]]:
        """Return this rank's share of the prompts, answered and scored, each with its place among all."""
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
        scored = self._scored(models, rollouts)
        return [(place, one) for (place, _), one in zip(own, scored, strict=True)]

    @torch.no_grad()
    def _scored(self, models: Models, rollouts: list[Rollout]) -> list[Scored]:
        """Return this rank's answers with their scores, with as many forward passes as every rank makes."""
        apart, found = models.apart, list[Scored]()
        assert apart.keys() == self.cfg.scored_apart_by.keys(), "else those that are learned from would score unasked"
        judges = apart.get("eval_helpfulness", models.helpfulness), apart.get("eval_safety", models.safety)
        for part in passes(self.cfg, rollouts, self.context):
            packed = pack_rollouts(rollouts[part], self.context, distributed.device())
            pair = (scores_at_end(model, packed).tolist() for model in judges)
            found += map(Scored, rollouts[part], *pair)
        return found


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
