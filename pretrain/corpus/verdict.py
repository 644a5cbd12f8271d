"""The four subsets of an evaluation set, and whether contamination raised its score (paper A.6).

The subsets overlap: clean samples (less than 20 % of their tokens contaminated) and not clean ones, not dirty (less
than 80 %) and dirty ones. The mean score of a subset of n samples is held against the sampling distribution of the mean
of n scores drawn from the whole set:

    Z_n = (mean - mu_n) / sigma_n,   mu_n = mean of all scores,   sigma_n = their standard deviation / sqrt(n)

Contamination shows where |Z_n| > 2 for all four, the clean score worse and the dirty ones better; a set is affected
where it shows at some length L, and the largest such L is reported.

The draws are with replacement: so the paper's Table 51 follows from its own sizes and means (HellaSwag, 70B: -5.73,
9.56, -2.27, 7.42). Without it each Z_n would be sqrt((N - 1) / (N - n)) times as large, N being the size of the set, and
a subset and its complement would always have the same |Z_n|: of the four conditions two would be left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLEAN, DIRTY = 0.2, 0.8
SUBSETS = {"clean": -1, "not clean": 1, "not dirty": -1, "dirty": 1}  # -1: scores worse where contamination helps
BEYOND = 2.0  # |Z_n| that counts

Numbers = NDArray[np.float64]


def describe(shares: Numbers, scores: Numbers | None) -> dict[str, Any]:
    """Return the mean contamination and the subsets of a set at one length, from each sample's share of contaminated tokens.

    A subset has its size `n` and mean `contamination`; with `scores`, one a sample, also their mean `score` and its
    `z`, and the length says whether contamination `shows`. What an empty subset or equal scores leave undefined is
    None, and `undefined` says why.
    """
    dirty, clean = shares >= DIRTY, shares < CLEAN
    chosen = dict(zip(SUBSETS, (clean, ~clean, ~dirty, dirty), strict=True))
    found: dict[str, Any] = {
        "mean": float(shares.mean()),
        "subsets": {
            name: {"n": int(own.sum()), "contamination": float(shares[own].mean()) if own.any() else None}
            for name, own in chosen.items()
        },
    }
    if scores is None:
        return found
    for name, own in chosen.items():
        found["subsets"][name] |= {
            "score": float(scores[own].mean()) if own.any() else None,
            "z": z_score(scores, own),
        }
    empty = [name for name, own in chosen.items() if not own.any()]
    if scores.min() == scores.max():
        found["undefined"] = "all scores are equal"
    elif empty:
        found["undefined"] = f"no samples: {', '.join(empty)}"
    shows = True
    for name, sign in SUBSETS.items():
        z = found["subsets"][name]["z"]
        shows &= z is not None and sign * z > BEYOND  # each beyond 2, and to the side where contamination helps
    found["shows"] = shows
    return found


def z_score(scores: Numbers, chosen: NDArray[np.bool_]) -> float | None:
    """Return Z_n of the chosen samples' mean score; None where there are none or all scores of the set are equal."""
    n = int(chosen.sum())
    if n == 0 or scores.min() == scores.max():
        return None
    return float((scores[chosen].mean() - scores.mean()) / (scores.std() / math.sqrt(n)))


def judge(lengths: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Return whether a set counts as `affected`, the largest `length` that shows it (None: there is none), and `why`."""
    showing = [length for length, found in lengths.items() if found["shows"]]
    if showing:
        why = f"all four |Z_n| > {BEYOND:g}, clean worse and dirty better, at L={max(showing)} and at no larger one"
        return {"affected": True, "length": max(showing), "why": why}
    undefined = [found.get("undefined") for found in lengths.values()]
    why = f"at no L are all four |Z_n| > {BEYOND:g}, clean worse and dirty better"
    if all(undefined):
        why = f"Z_n is undefined at every L ({'; '.join(dict.fromkeys(map(str, undefined)))})"
    return {"affected": False, "length": None, "why": why}


def as_markdown(sets: Mapping[str, Mapping[str, Any]], corpus: str, budget: int) -> str:
    """Return the report as a page."""
    lines = [
        f"# Contamination by {corpus}",
        "",
        f"Share of a sample's tokens in spans of more than L tokens that occur in the corpus, with up to {budget} differences.",
        "",
        "| set | L | samples | mean | " + " | ".join(SUBSETS) + " |",
        "|" + "---|" * (4 + len(SUBSETS)),
    ]
    for name, found in sets.items():
        for length, at in found["lengths"].items():
            counts = " | ".join(f"{at['subsets'][subset]['n']:,}" for subset in SUBSETS)
            lines.append(f"| {name} | {length} | {found['samples']:,} | {at['mean']:.2%} | {counts} |")
    scored = {name: found for name, found in sets.items() if "affected" in found}
    if scored:
        lines += ["", "Mean score of each subset, with its Z_n in brackets:", ""]
        lines += ["| set | L | all | " + " | ".join(SUBSETS) + " | shows |", "|" + "---|" * (4 + len(SUBSETS))]
        for name, found in scored.items():
            for length, at in found["lengths"].items():
                cells = " | ".join(_cell(at["subsets"][subset]) for subset in SUBSETS)
                shows = at.get("undefined") or ("yes" if at["shows"] else "no")
                lines.append(f"| {name} | {length} | {found['score']:.4g} | {cells} | {shows} |")
        lines += [""]
        for name, found in scored.items():
            lines.append(f"- {name} counts as {'affected' if found['affected'] else 'not affected'}: {found['why']}.")
    return "\n".join(lines) + "\n"


def _cell(subset: Mapping[str, Any]) -> str:
    if subset["score"] is None:
        return "-"
    return f"{subset['score']:.4g}" + (f" ({subset['z']:+.2f})" if subset["z"] is not None else "")
