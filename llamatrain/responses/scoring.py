"""Scoring responses with the two reward models, and the combined score (paper 3.2.3).

A score is the raw output (logit) of a reward model at the response's last token. The paper quotes sigmoids of it in
(0, 1) and undoes them with LOGIT; here the logit is kept and the sigmoid is taken for files and people only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from llamatrain import distributed, heartbeat
from llamatrain.checkpoint import lineage
from llamatrain.data.kinds import PublicScores, RawScores
from llamatrain.errors import UserError
from llamatrain.manifest import checkpoint_folder
from llamatrain.responses.config import BOTH, GateConfig, LearningGateConfig, logit
from llamatrain.responses.rollouts import Packed, Rollout, pack_rollouts, portions

BELOW = 1e-3  # how far below an answer's score that of a response lies which is none
GOVERNED = {"helpfulness": "harmless", "safety": "adversarial"}  # reward model -> its kind of prompts
# Between which a mean raw score is near enough to 0 (sigmoids of 0.05 and 0.95); most of what fine-tuned models answer is
# safe, and scored high by a safety model whose zero is right (0.993).
NEAR_ZERO = {"helpfulness": (-3.0, 3.0), "safety": (-3.0, 5.0)}


@dataclass(frozen=True)
class Scores:
    """Raw scores (logits) of one response; the combined one needs both models.

    `gated`: the combined score of a harmless prompt is the safety model's, which calls the response unsafe.
    """

    helpfulness: float | None = None
    safety: float | None = None
    combined: float | None = None
    gated: bool | None = None


def sigmoid(logit: float) -> float:
    """Return the score as the paper quotes it, in (0, 1)."""
    # Two forms of the same, so that `exp` is only taken of numbers below 0 and cannot overflow.
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def public_scores(scores: Scores) -> PublicScores:
    """Return the scores that are there, after a sigmoid, and whether the gate closed."""
    logits = {"helpfulness": scores.helpfulness, "safety_score": scores.safety, "combined": scores.combined}
    found = {key: round(sigmoid(logit), 6) for key, logit in logits.items() if logit is not None}
    return cast(PublicScores, found if scores.gated is None else {**found, "gated": scores.gated})


def raw_scores(scores: Scores) -> RawScores:
    """Return the scores that are there, as logits, and whether the gate closed."""
    return cast(RawScores, {key: value for key, value in vars(scores).items() if value is not None})


def gate_closes(safety: Tensor, gate: GateConfig) -> Tensor:
    """Tell where (N,) the safety score takes the place of the helpfulness score whatever the prompt: nowhere if one model scores alone."""
    if gate.models != BOTH:
        return torch.zeros_like(safety, dtype=torch.bool)
    return safety.double() < logit(gate.safety_threshold)  # (N,); in float64, as the threshold is


def combined_logits(helpfulness: Tensor, safety: Tensor, is_adversarial: Tensor, gate: GateConfig) -> Tensor:
    """Return R_c as logits (N,): the safety score for an adversarial prompt or where it is below the threshold, else helpfulness.

    With `gate.models` it is the score of one model, whatever the prompt.
    """
    if gate.models != BOTH:
        return helpfulness if gate.models == "helpfulness" else safety
    return torch.where(is_adversarial | gate_closes(safety, gate), safety, helpfulness)


def hold_back(
    combined: Tensor, is_answer: Tensor, groups: Sequence[object], quantile: float, gate: GateConfig
) -> Tensor:
    """Return the combined scores (N,) with those of responses that are no answer lowered: they never beat answering.

    Such a response has no EOS, or nothing before it: no reward model has seen one of these, and a policy would find the
    scores that it gives them all the same. Each becomes the lowest of itself, `unfinished_logit` and what lies just below
    the `quantile` of its group's answers (0: the lowest of them). The paper does not say what becomes of such responses.
    """
    held = combined.clone()
    members: dict[object, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    for indices in members.values():
        answers = sorted(combined[i].item() for i in indices if is_answer[i])
        ceiling = gate.unfinished_logit  # alone where the group has no answer
        if answers:
            ceiling = min(ceiling, answers[int(quantile * (len(answers) - 1))] - BELOW)
        for index in indices:
            if not is_answer[index]:
                held[index] = min(combined[index].item(), ceiling)
    return held


def combine(
    rollouts: Sequence[Rollout], helpfulness: Tensor | None, safety: Tensor | None, gate: GateConfig
) -> list[Scores]:
    """Join the scores (N,) of the two reward models. Without either the combined score is absent, unless the other scores alone.

    `rollouts` hold all samples of their prompts: one that is no answer is scored below every answer to its prompt.
    """
    combined, gated = None, None
    if helpfulness is not None and safety is not None:
        is_adversarial = torch.tensor([r.prompt.is_adversarial for r in rollouts])
        combined = combined_logits(helpfulness, safety, is_adversarial, gate)
        gated = gate_closes(safety, gate) & ~is_adversarial  # on adversarial prompts the safety score counts anyway
    elif gate.models != BOTH:
        combined = helpfulness if gate.models == "helpfulness" else safety
    if combined is not None:
        is_answer = torch.tensor([r.is_answer for r in rollouts])
        combined = hold_back(combined, is_answer, [r.prompt.id for r in rollouts], 0.0, gate)
    columns: list[list[Any]] = []
    for column in (helpfulness, safety, combined, gated):
        columns.append([None] * len(rollouts) if column is None else column.tolist())
    return [Scores(*row) for row in zip(*columns, strict=True)]


# --- the zero of the reward models -----------------------------------------------------------------------------------


def recorded_zeros(checkpoints: Mapping[str, str | None]) -> dict[str, float]:
    """Return kind -> mean raw score on the pairs of a reward model's own kind, where its checkpoint has recorded it."""
    found: dict[str, float] = {}
    for name, where in GOVERNED.items():
        folder = checkpoint_folder(path, "reward") if (path := checkpoints[name]) is not None else None
        if folder is not None and (folder / "llamatrain.json").is_file():
            recorded = (lineage(folder).get("scores") or {}).get(where)
            found |= {name: float(recorded["mean"])} if recorded else {}
    return found


def check_zero(
    helpfulness: Sequence[float], safety: Sequence[float], gate: GateConfig, recorded: Mapping[str, float]
) -> list[str]:
    """Return what is wrong with the zeros of the reward models that `gate.models` names, in words.

    A zero is the model's own: it is told by the `recorded` mean of its pairs. Of a model without (from elsewhere) the raw
    scores of the policy's responses stand in, on the prompts that it governs: they are high where the policy is good, too.
    The combined score compares both models with each other and with fixed numbers, which one whose scores are all far
    from 0 turns upside down.
    """
    found = []
    unfinished = "the rule for unfinished responses"
    both = f"the gate at {gate.safety_threshold:g} and {unfinished} compare"
    why = both if gate.models == BOTH else f"{unfinished} compares"
    for name, scores in (("helpfulness", helpfulness), ("safety", safety)):
        if gate.models not in (BOTH, name):
            continue
        mean, (low, high) = math.fsum(scores) / len(scores) if scores else 0.0, NEAR_ZERO[name]
        mean, where = recorded.get(name, mean), GOVERNED[name]
        if not low <= mean <= high:
            found.append(
                f"the {name} model's scores on {where} prompts have a mean of {mean:+.1f} (sigmoid {sigmoid(mean):.3f}), far "
                f"from 0: need {low:g} to {high:g}, because {why} them with fixed numbers; train the model with center_weight"
            )
    return found


def require_zero(problems: Sequence[str], gate: LearningGateConfig, say: Callable[[str], None]) -> None:
    """Say what `check_zero` found; UserError where gate.require_centred asks for it."""
    if problems and gate.require_centred:
        raise UserError(f"{problems[0]} (or set gate.require_centred=false)")
    for problem in problems:
        say(f"warning: {problem}")


def scores_at_end(model: Callable[..., Tensor], packed: Packed) -> Tensor:
    """Return a reward model's raw scores (N,), read at each response's last token."""
    return model(**packed.inputs, select=packed.last)


@torch.no_grad()
def score(
    model: Any, rollouts: Sequence[Rollout], batch_size: int, on_step: Callable[[], None] = lambda: None
) -> Tensor:
    """Return raw scores (N,) on the CPU, `batch_size` responses a forward pass, before each of which is `on_step`.

    Those of like length share a pass, in rows no longer than the longest of them: little padding, and few rows of several.
    """
    lengths = [len(rollout.prompt.tokens) + len(rollout.tokens) for rollout in rollouts]
    order = sorted(range(len(rollouts)), key=lambda i: lengths[i])
    scores = torch.empty(len(rollouts))
    for portion in portions(order, batch_size):
        heartbeat.beat("score")
        on_step()
        packed = pack_rollouts([rollouts[i] for i in portion], lengths[portion[-1]], distributed.device())
        scores[list(portion)] = scores_at_end(model, packed).float().cpu()
    return scores
