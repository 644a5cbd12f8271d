"""The best of K responses to each prompt: which one is kept, and what keeping it brings (paper 3.2.3, figure 7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from statistics import fmean, pstdev
from typing import cast

from llamatrain.data.kinds import BestRow, PublicScores, SampledRow
from llamatrain.order_statistics import expected_best
from llamatrain.responses.config import GateConfig, logit
from llamatrain.responses.sampling import response_metrics
from llamatrain.responses.scoring import check_zero, sigmoid


def by_prompt(sampled: Iterable[SampledRow]) -> Iterator[list[SampledRow]]:
    """Yield the responses of each prompt."""
    for _, rows in groupby(sampled, key=lambda row: row["prompt_id"]):
        yield list(rows)


def best_of(rows: Sequence[SampledRow]) -> SampledRow | None:
    """Return the response with the highest combined score, the first of equals; None where none can be trained on.

    A response that was cut off would be trained as if it ended there, and an empty one teaches silence.
    """
    return max(usable(rows), key=lambda row: row["raw"]["combined"], default=None)


def usable(rows: Iterable[SampledRow]) -> list[SampledRow]:
    """Return the responses that can be trained on."""
    return [row for row in rows if row["finished"] and row["response"]]


def is_tied(rows: Sequence[SampledRow]) -> bool:
    """Tell whether another text than the one kept has the very same score: which of them is kept is chance."""
    best = best_of(rows)
    return best is not None and any(
        row["raw"]["combined"] == best["raw"]["combined"] and row["response"] != best["response"]
        for row in usable(rows)
    )


def best_rows(sampled: Iterable[SampledRow]) -> Iterator[BestRow]:
    """Yield the best response of each prompt as a dialogue, with what made it the best.

    `loss: last`: the earlier answers of a prompt are somebody else's, and perhaps harmful.
    """
    for rows in by_prompt(sampled):
        best = best_of(rows)
        if best is not None:
            scores = {key: value for key, value in best.items() if key in PublicScores.__annotations__}
            row = {
                "messages": [*best["messages"], {"role": "assistant", "content": best["response"]}],
                "source": best["raw"]["source"],
                "is_adversarial": best["is_adversarial"],
                "loss": "last",
                "prompt_id": best["prompt_id"],
                "sample": best["sample"],
                **scores,
            }
            yield cast(BestRow, row)


def zero_problems(sampled: Iterable[SampledRow], gate: GateConfig, recorded: Mapping[str, float]) -> list[str]:
    """Return what is wrong with the zeros of the reward models (`scoring.check_zero`), which sampled responses stand in for."""
    helpfulness: list[float] = []
    safety: list[float] = []
    for row in sampled:
        raw = row["raw"]
        if row["is_adversarial"] and "safety" in raw:
            safety.append(raw["safety"])
        elif not row["is_adversarial"] and "helpfulness" in raw:
            helpfulness.append(raw["helpfulness"])
    return check_zero(helpfulness, safety, gate, recorded)


def sampling_metrics(sampled: Iterable[SampledRow], gate: GateConfig) -> dict[str, float]:
    """Return mean and best scores in (0, 1), the best of 1, 2, 4, .. K (paper figure 7), and measures by kind of prompt.

    `rs/duplicates` is the share of responses that repeat an earlier one to the same prompt, `rs/ties` that of prompts
    where chance alone says which of several texts was kept.
    """
    groups = list(by_prompt(sampled))
    flat = [row for rows in groups for row in rows]
    scores = [[sigmoid(row["raw"]["combined"]) for row in rows] for rows in groups]
    metrics = {
        **response_metrics("rs", flat),
        "rs/prompts": len(groups),
        "rs/kept": sum(best_of(rows) is not None for rows in groups),
        "rs/duplicates": 1 - sum(len({row["response"] for row in rows}) for rows in groups) / len(flat),
        "rs/ties": fmean(is_tied(rows) for rows in groups),
        "rs/score_mean": fmean(fmean(own) for own in scores),
        "rs/score_best": fmean(max(own) for own in scores),
        **_by_kind(flat, gate),
    }
    for size in sizes(len(groups[0])):
        metrics[f"rs/best_of_{size}"] = fmean(expected_best(own, size) for own in scores)
    return metrics


def sizes(most: int) -> list[int]:
    """Return the K of 1, 2, 4, .. `most` for which the best of K is told."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def _by_kind(sampled: Sequence[SampledRow], gate: GateConfig) -> dict[str, float]:
    """Return for each kind of prompt the reward models' mean raw scores, the share that the gate calls unsafe, and the spread.

    Of harmless prompts that share is what the gate turns upside down; the spread of the combined scores is 1 over all.
    """
    metrics: dict[str, float] = {}
    closed = logit(gate.safety_threshold)
    spread = pstdev(row["raw"]["combined"] for row in sampled)
    for name, kind in (("harmless", False), ("adversarial", True)):
        raw = [row["raw"] for row in sampled if row["is_adversarial"] is kind]
        if not raw:
            continue
        if helpfulness := [own["helpfulness"] for own in raw if "helpfulness" in own]:
            metrics[f"rs/helpfulness_logit_{name}"] = fmean(helpfulness)
        if safety := [own["safety"] for own in raw if "safety" in own]:
            metrics[f"rs/safety_logit_{name}"] = fmean(safety)
            metrics[f"rs/gated_{name}"] = fmean(score < closed for score in safety)
        # Below 1: whitened together with the other kind, this one would be learned with less strength (PPO's `whiten`).
        metrics[f"rs/whitened_spread_{name}"] = pstdev(own["combined"] for own in raw) / spread if spread else 0.0
    return metrics


def best_in_words(metrics: dict[str, float]) -> str:
    """Return for the terminal what keeping the best of K brings (the combined scores of `sampling_metrics`)."""
    prompts, kept = (f"{metrics[f'rs/{name}']:,.0f}" for name in ("prompts", "kept"))
    sizes = [key.removeprefix("rs/best_of_") for key in metrics if key.startswith("rs/best_of_")]
    scores = ", ".join(f"{size}: {metrics[f'rs/best_of_{size}']:.2f}" for size in sizes)
    text = f"combined score of the best of {scores}; a best response kept for {kept} of {prompts} prompts"
    return f"{text}; {metrics['rs/duplicates']:.0%} of the responses repeat another, {metrics['rs/ties']:.0%} of the prompts have a tie"
