"""What is known about a model's responses: metrics by prompt and sample, summed up with intervals and compared.

Every metric is a table prompt -> values of its samples, in the order of the file, so that sample i of two models on the
same prompt can be compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from llamatrain.data.kinds import JudgementRow, ResponseRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.refusals import refuses
from llamatrain.responses.config import SAFETY_THRESHOLD
from llamatrain.statistics import (
    Interval,
    by_prompt,
    mean_interval,
    paired_interval,
    spearman_interval,
    win_rate,
    win_rate_at_equal_length,
)
from llamatrain.text_files import read_lines

JUDGED = ("helpfulness", "safety")  # gold judgements, in [0, 1]
SCORED = ("score_helpfulness", "score_safety", "score_combined")  # the reward models' logits
COMPARED = (*JUDGED, *SCORED)  # means with intervals, differences, win rates
PLAIN = ("refused", "declined", "gated", "finished", "length")  # means only; length in words
# Kind of prompt -> the rank correlation of its reward model's score with the gold score there.
AGREEMENT = {
    "harmless": {"spearman_helpfulness": ("score_helpfulness", "helpfulness")},
    "adversarial": {"spearman_safety": ("score_safety", "safety")},
}
KINDS = {"harmless": False, "adversarial": True}  # kind of prompt -> its `is_adversarial`


class Recalled(TypedDict):
    """What is read of a line of recall.jsonl."""

    dialogue: str
    turn: int
    kept: dict[str, bool | None]


Samples = dict[str, list[float]]  # prompt -> the values of its samples


@dataclass
class Measured:
    """All metrics of one model's responses, and which prompts are adversarial where the files tell."""

    metrics: dict[str, Samples] = field(default_factory=dict)
    is_adversarial: dict[str, bool] = field(default_factory=dict)

    def add(self, metric: str, prompt: str, value: float) -> None:
        """Append a sample's value."""
        self.metrics.setdefault(metric, {}).setdefault(prompt, []).append(value)

    def at(self, metric: str, prompts: Collection[str] | None = None) -> Samples:
        """Return a metric, on these prompts only where given; empty where it is not known."""
        samples = self.metrics.get(metric, {})
        return samples if prompts is None else {prompt: samples[prompt] for prompt in samples if prompt in prompts}


def measure(responses: str | None, judgements: str | None, scored: bool = True, bad: BadRows | None = None) -> Measured:
    """Read a model's responses (scores, lengths) and judgements; either may be absent, and each may be a run folder.

    Scores are read as the logits that training works with: where a reward model gives little to everybody, their
    sigmoids all look like 0. Without `scored` they are left out. Bad rows go to `bad`.
    """
    found = Measured()
    answered, judged = list[str](), list[str]()
    for row in read_rows(_file(responses, "responses.jsonl"), ResponseRow, bad) if responses else ():
        prompt = row["prompt_id"]
        answered.append(prompt)
        scores = (row.get("helpfulness"), row.get("safety_score"), row.get("combined"))
        for metric, score in zip(SCORED, scores, strict=True) if scored else ():
            if score is not None:
                found.add(metric, prompt, logit(score))
        if scored and "safety_score" in row:
            found.add("gated", prompt, float(row["safety_score"] < SAFETY_THRESHOLD))
        found.add("finished", prompt, float(row["finished"]))
        found.add("length", prompt, len(row["response"].split()))
        found.add("declined", prompt, float(refuses(row["response"])))
        if "is_adversarial" in row:
            found.is_adversarial[prompt] = row["is_adversarial"]
    for judgement in read_rows(_file(judgements, "judgements.jsonl"), JudgementRow, bad) if judgements else ():
        judged.append(judgement["prompt_id"])
        found.add("helpfulness", judgement["prompt_id"], judgement["helpfulness"])
        found.add("safety", judgement["prompt_id"], judgement["safety"])
        meta = judgement.get("meta", {})
        if isinstance(kind := meta.get("is_adversarial"), bool):
            found.is_adversarial[judgement["prompt_id"]] = kind
        if isinstance(refused := meta.get("refused"), bool):
            found.add("refused", judgement["prompt_id"], float(refused))
    # Paired by place: judgements of other responses would mark the wrong ones, and nobody would see it.
    if responses and judgements and answered != judged:
        raise UserError(
            f"{judgements} has {len(judged)} judgements, not those of the {len(answered)} responses of {responses} in "
            "their order: `llamatrain judge` makes them"
        )
    return found


def recalled(path: str) -> dict[str, Any]:
    """Return which share of an instruction's attributes a model still keeps to, by turn, with 95 % intervals over dialogues.

    Reads recall.jsonl; what only a reader can tell is left out, and so are turns of which nothing is told. A turn's share is
    over the dialogues that reach it, `count` of them: one that ends before has no part in it.
    """
    shares: dict[int, dict[str, float]] = {}
    for row in read_lines(_file(path, "recall.jsonl"), Recalled, "`llamatrain recall` makes it"):
        told = [kept for kept in row["kept"].values() if kept is not None]
        if told:
            shares.setdefault(row["turn"], {})[row["dialogue"]] = math.fsum(told) / len(told)
    return {f"recall_turn_{turn}": mean_interval(list(by.values())).as_dict() for turn, by in sorted(shares.items())}


def logit(share: float) -> float:
    """Return a score in (0, 1) as the logit it was, to the six digits that files keep of it."""
    share = min(max(share, 5e-7), 1 - 5e-7)
    return math.log(share / (1 - share))


def _file(path: str, name: str) -> Path:
    return Path(path) / name if Path(path).is_dir() else Path(path)


def summarise(model: Measured, prompts: Collection[str] | None = None, kind: str = "") -> dict[str, Any]:
    """Return the means of all known metrics, those of COMPARED with 95 % intervals over prompts.

    For prompts of one kind, also how the scores that count there order the responses, held against the gold judge.
    """
    means: dict[str, Any] = {}
    for metric in (*COMPARED, *PLAIN):
        if values := by_prompt(model.at(metric, prompts)):
            interval = mean_interval(list(values.values()))
            means[metric] = interval.as_dict() if metric in COMPARED else interval.mean
    for metric, (score, judged) in AGREEMENT.get(kind, {}).items():  # each reward model on the prompts that it governs
        agreement = spearman_interval(model.at(score, prompts), model.at(judged, prompts))
        if agreement is not None:
            means[metric] = agreement.as_dict()
    return means


def compare(
    models: Mapping[str, Measured],
    pairs: Collection[tuple[str, str]],
    tie: float,
    prompts: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Return for each pair (model, baseline) and metric the paired difference and the win rate, where both know it."""
    rows = []
    for name, base in pairs:
        for metric in COMPARED:
            ours, theirs = models[name].at(metric, prompts), models[base].at(metric, prompts)
            difference = paired_interval(ours, theirs)
            if difference is not None:
                about = {"model": name, "baseline": base, "metric": metric}
                equal = {}
                lengths, others = models[name].at("length", prompts), models[base].at("length", prompts)
                if lengths and others:
                    equal = _at_equal_length(win_rate_at_equal_length(ours, theirs, lengths, others, tie))
                rows.append({**about, **_compared(ours, theirs, difference, tie), **equal})
    return rows


def _at_equal_length(rate: Interval | None) -> dict[str, Any]:
    names = ("win_rate_at_equal_length", "win_low_at_equal_length", "win_high_at_equal_length")
    return dict(zip(names, (rate.mean, rate.low, rate.high), strict=True)) if rate is not None else {}


def _compared(ours: Samples, theirs: Samples, difference: Interval, tie: float) -> dict[str, Any]:
    wins = win_rate(ours, theirs, tie)
    return {
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "prompts": difference.count,
        "win_rate": wins.rate,
        "win_low": wins.low,
        "win_high": wins.high,
        "wins": wins.wins,
        "losses": wins.losses,
        "ties": wins.ties,
    }


def pairs_of(names: list[str], baseline: str | None) -> list[tuple[str, str]]:
    """Return which models are compared: each with the one before it, and all with the baseline where there is one."""
    consecutive = [(name, before) for before, name in itertools.pairwise(names)]
    against = [(name, baseline) for name in names if baseline is not None and name != baseline]
    return list(dict.fromkeys([*consecutive, *against]))


def report(models: Mapping[str, Measured], baseline: str | None, tie: float) -> dict[str, Any]:
    """Return everything that is known from responses and judgements: over all prompts, and by kind of prompt."""
    pairs = pairs_of(list(models), baseline)
    is_adversarial: dict[str, bool] = {}  # by prompt, from whichever model's files tell
    samples: dict[str, int] = {}  # prompt -> the most that a model has of it
    for model in models.values():
        is_adversarial.update(model.is_adversarial)
        for table in model.metrics.values():
            for prompt, values in table.items():
                samples[prompt] = max(len(values), samples.get(prompt, 0))
    by_kind = {}
    for kind, wanted in KINDS.items():
        prompts = {prompt for prompt, flag in is_adversarial.items() if flag is wanted}
        if prompts:
            by_kind[kind] = {
                "prompts": len(prompts),
                "models": {name: summarise(model, prompts, kind) for name, model in models.items()},
                "comparisons": compare(models, pairs, tie, prompts),
            }
    return {
        "models": {name: summarise(model) for name, model in models.items()},
        "comparisons": compare(models, pairs, tie),
        "prompts": len(samples),
        "samples_per_prompt": max(samples.values(), default=0),
        "baseline": baseline,
        "by_kind": by_kind,
    }
