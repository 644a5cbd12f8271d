"""The sampling temperature of a round, chosen by the best of K on some prompts (paper 3.2.3, figure 8).

The best temperature moves from round to round: a policy that has learned from its best samples is surer of itself, and
needs a higher one to explore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

from llamatrain import distributed
from llamatrain.data.kinds import SampledRow
from llamatrain.data.rows import write_rows
from llamatrain.order_statistics import expected_best
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.sampling import make_responses
from llamatrain.responses.scoring import sigmoid
from llamatrain.run import Run

from .best_of import by_prompt, sizes
from .config import RejectionSamplingConfig

FILE = "temperatures.jsonl"


def choose(
    run: Run, cfg: RejectionSamplingConfig, parents: dict[str, Path], prompts: Sequence[Prompt], noise: str
) -> tuple[RejectionSamplingConfig, dict[str, float]]:
    """Return the settings with the temperature whose best of K scores highest on the first `trial_prompts`, and metrics.

    `prompts` are the round's own: on those that it was tuned on in an earlier round, a policy is surer than on others. Of
    equals it is the lowest. Nothing is tried where `try_temperatures` is empty. The trials are chunks on disk, with noise
    of their own; temperatures.jsonl has a row for each temperature and K.
    """
    if not cfg.try_temperatures:
        return cfg, {}
    rows: list[dict[str, float]] = []
    tried = prompts[: cfg.trial_prompts]
    for temperature in candidates(cfg):
        run.print(f"trying temperature {temperature:g} on {len(tried)} prompts")
        sampling = replace(cfg.sampling, temperature=temperature)
        trial = make_responses(run, replace(cfg, sampling=sampling), parents, tried, f"{noise}/trial")
        # Chunks lie on the disk that all ranks share; the first reads them for all.
        rows += distributed.broadcast_object(curve(temperature, list(trial.rows())) if run.is_main else [])
    best = {row["temperature"]: row["best"] for row in rows if row["k"] == cfg.samples_per_prompt}
    chosen = max(best, key=lambda temperature: best[temperature])
    if run.is_main:
        write_rows(run.folder / FILE, ({**row, "chosen": row["temperature"] == chosen} for row in rows))
    scores = ", ".join(f"{temperature:g}: {score:.3f}" for temperature, score in best.items())
    run.print(f"score of the best of {cfg.samples_per_prompt} by temperature {scores}; sampling at {chosen:g}")
    return replace(cfg, sampling=replace(cfg.sampling, temperature=chosen)), {"rs/temperature": chosen}


def curve(temperature: float, sampled: Sequence[SampledRow]) -> list[dict[str, float]]:
    """Return for K of 1, 2, 4, .. the mean over prompts of the best score among K responses, and beside it of all."""
    scores = [[sigmoid(row["raw"]["combined"]) for row in rows] for rows in by_prompt(sampled)]
    whole = {"mean": fmean(map(fmean, scores)), "median": fmean(map(median, scores))}
    return [
        {"temperature": temperature, "k": k, "best": fmean(expected_best(own, k) for own in scores), **whole}
        for k in sizes(len(scores[0]))
    ]


def candidates(cfg: RejectionSamplingConfig) -> list[float]:
    """Return the temperatures that are tried, rising; none where there is no choice."""
    return sorted({cfg.sampling.temperature, *cfg.try_temperatures}) if cfg.try_temperatures else []


def trials_in_words(cfg: RejectionSamplingConfig, prompts: int) -> list[str]:
    """Return the trials of a round of so many prompts for the plan, in a line or none."""
    found, tried = candidates(cfg), min(cfg.trial_prompts, prompts)
    count = len(found) * tried * cfg.samples_per_prompt
    listed = ", ".join(f"{temperature:g}" for temperature in found)
    return [f"before: temperatures {listed} on {tried} prompts each = {count:,} responses"] if found else []
