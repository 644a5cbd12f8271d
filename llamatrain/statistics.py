"""Means, proportions and differences with 95 % confidence intervals.

The unit of chance is the prompt: the several samples of a prompt are averaged first, because they resemble each other.
Everything is closed-form (Student's t, Wilson), so a result never depends on a resampling seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval; `low` and `high` are None where one value cannot give an interval."""

    mean: float
    low: float | None
    high: float | None
    count: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the fields for a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class WinRate:
    """Wins among decided comparisons, with its interval; ties are removed and counted."""

    rate: float | None
    low: float | None
    high: float | None
    wins: int
    losses: int
    ties: int


def wilson(proportion: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion observed in `count` trials (which need not be whole)."""
    if count <= 0:
        return 0.0, 1.0
    z2 = Z95 * Z95
    centre = (proportion + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(proportion * (1 - proportion) / count + z2 / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def t_quantile(degrees: int) -> float:
    """Return the 97.5 % point of Student's t distribution.

    With t = sqrt(degrees) * tan(angle) the density is cos(angle) ** (degrees - 1): smooth, bounded and quickly summed.
    """
    root = math.sqrt(degrees)
    # With many degrees all of the mass lies near 0: beyond 12 standard deviations there is none to be seen.
    angles = np.linspace(0.0, min(math.pi / 2, 12 / root), 20001)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])  # by trapezoids
    # Of the positive half, 95 % lie below the 97.5 % point of the whole.
    return root * math.tan(float(np.interp(0.95, mass / mass[-1], angles)))


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with Student's t interval."""
    if not values:
        raise ValueError("a mean needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    mean, count = float(array.mean()), len(array)
    if count < 2:
        return Interval(mean, None, None, count)
    half = t_quantile(count - 1) * float(array.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, count)


def by_group(values: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Return group -> its values, in their order."""
    found: dict[str, list[float]] = {}
    for group, value in values:
        found.setdefault(group, []).append(value)
    return found


def share_interval(values: Mapping[str, Sequence[float]]) -> Interval:
    """Return the mean of values in [0, 1] that come in groups, over all of them, with Wilson's interval.

    As values of a group vary together, it is that of the effective number of values: with one in each group, of all.
    """
    sums, counts = [sum(group) for group in values.values()], [len(group) for group in values.values()]
    rate = sum(sums) / sum(counts)
    return Interval(rate, *wilson(rate, _effective(sums, counts)), sum(counts))


def _effective(sums: Sequence[float], counts: Sequence[int]) -> float:
    """Return how many independent values with the same mean would vary as groups of so many with these sums do."""
    total = sum(counts)
    rate = sum(sums) / total
    # The variance of the rate as groups are drawn, of a ratio estimator.
    spread = sum((found - rate * count) ** 2 for found, count in zip(sums, counts, strict=True)) / total**2
    return min(float(total), rate * (1 - rate) / spread) if spread > 0 else float(len(counts))


def clustered_interval(values: Mapping[str, Sequence[float]]) -> Interval:
    """Return the mean of values that come in groups, over all of them, with Student's t interval; `count` is of groups.

    As values of a group vary together, its variance is that of a ratio estimator, as groups are drawn. With one value in
    each it is `mean_interval`.
    """
    sums, counts = [sum(group) for group in values.values()], [len(group) for group in values.values()]
    groups, total = len(counts), sum(counts)
    mean = sum(sums) / total
    if groups < 2:
        return Interval(mean, None, None, groups)
    spread = sum((found - mean * count) ** 2 for found, count in zip(sums, counts, strict=True)) / total**2
    half = t_quantile(groups - 1) * math.sqrt(spread * groups / (groups - 1))
    return Interval(mean, mean - half, mean + half, groups)


def by_prompt(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Average the samples of each prompt."""
    return {prompt: float(np.mean(samples)) for prompt, samples in values.items() if len(samples)}


def paired_interval(model: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]]) -> Interval | None:
    """Return the mean difference model - baseline over the prompts both have, each prompt's samples averaged first."""
    ours, theirs = by_prompt(model), by_prompt(baseline)
    differences = [ours[prompt] - theirs[prompt] for prompt in ours if prompt in theirs]
    return mean_interval(differences) if differences else None


def spearman_interval(scores: Mapping[str, Sequence[float]], judged: Mapping[str, Sequence[float]]) -> Interval | None:
    """Return Spearman's rank correlation over all samples that have both; None where either never varies.

    The interval is Fisher's (with Bonett and Wright's variance) on the number of prompts, as if the further samples of a
    prompt added no information: rather too wide than too narrow.
    """
    shared = [prompt for prompt in scores if prompt in judged]
    pairs = [pair for prompt in shared for pair in zip(scores[prompt], judged[prompt], strict=False)]
    if len(pairs) < 2:
        return None
    first, second = (_ranks(np.asarray(column, dtype=np.float64)) for column in zip(*pairs, strict=True))
    if not first.std() or not second.std():
        return None
    rho = float(np.corrcoef(first, second)[0, 1])
    if len(shared) < 4 or abs(rho) >= 1:  # the variance needs four, and atanh of 1 is infinite
        return Interval(rho, None, None, len(shared))
    half = Z95 * math.sqrt((1 + rho * rho / 2) / (len(shared) - 3))
    return Interval(rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half), len(shared))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return each value's rank; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    # The last rank of each group of equals, less half of what stands between its first and last.
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def win_rate(
    model: Mapping[str, Sequence[float]], baseline: Mapping[str, Sequence[float]], tie: float = 1e-9
) -> WinRate:
    """Compare sample i of the model with sample i of the baseline on every prompt; values closer than `tie` are ties.

    The interval is Wilson's on the effective number of comparisons: the decided ones, divided by how much the samples
    of a prompt vary together (the design effect of a cluster sample). With one sample a prompt it is Wilson's plain
    interval.
    """
    wins, decided, ties = [], [], 0
    for prompt in model:  # in the file's order: a set's differs between starts, and with it the sum's last bit
        if prompt not in baseline:
            continue
        gaps = [a - b for a, b in zip(model[prompt], baseline[prompt], strict=False)]
        won, lost = sum(gap > tie for gap in gaps), sum(gap < -tie for gap in gaps)
        ties += len(gaps) - won - lost
        if won + lost:
            wins.append(won)
            decided.append(won + lost)
    total, won_all = sum(decided), sum(wins)
    if not total:
        return WinRate(None, None, None, 0, 0, ties)
    rate = won_all / total
    effective = _effective(wins, decided)
    low, high = wilson(rate, effective)
    return WinRate(rate, low, high, won_all, total - won_all, ties)


def win_rate_at_equal_length(
    model: Mapping[str, Sequence[float]],
    baseline: Mapping[str, Sequence[float]],
    lengths: Mapping[str, Sequence[float]],
    baseline_lengths: Mapping[str, Sequence[float]],
    tie: float = 1e-9,
) -> Interval | None:
    """Return the win rate that a logistic regression on the difference in length predicts where both are equally long.

    The length-controlled win rate of AlpacaEval 2 (arXiv 2404.04475) without its term for the prompt's difficulty: a judge
    that prefers the longer answer, whoever wrote it, gives 0.5. Ties are removed, the interval is clustered by prompt;
    None where nothing is decided.
    """
    gaps, won, clusters = [], [], []
    for number, prompt in enumerate(prompt for prompt in model if prompt in baseline):
        both = zip(model[prompt], baseline[prompt], lengths[prompt], baseline_lengths[prompt], strict=False)
        for ours, theirs, length, other in both:
            if abs(ours - theirs) > tie:
                won.append(ours > theirs)
                gaps.append(length - other)
                clusters.append(number)
    if not won:
        return None
    y, gap, cluster = np.array(won, dtype=np.float64), np.array(gaps, dtype=np.float64), np.array(clusters)
    x = np.stack([np.ones(len(y)), np.tanh(gap / (gap.std() or 1.0))], axis=1)  # (N, 2): a few huge gaps decide nothing
    weights, hessian = _logistic(x, y)
    residual = x * (y - _sigmoid(x @ weights))[:, None]  # (N, 2): how each comparison pulls
    pulls = np.zeros((cluster.max() + 1, 2))
    np.add.at(pulls, cluster, residual)
    inverse = np.linalg.inv(hessian)
    half = Z95 * math.sqrt((inverse @ (pulls.T @ pulls) @ inverse)[0, 0])
    rate, low, high = (float(_sigmoid(weights[0] + end)) for end in (0.0, -half, half))
    count = len(np.unique(cluster))
    return Interval(rate, low, high, count) if count > 1 else Interval(rate, None, None, count)


def _logistic(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of a logistic regression and the Hessian there, by Newton's method.

    A weak normal prior (deviation 3) keeps it finite where one side wins every comparison.
    """
    weights, prior = np.zeros(x.shape[1]), np.eye(x.shape[1]) / 9
    for _ in range(50):
        share = _sigmoid(x @ weights)
        hessian = (x.T * (share * (1 - share))) @ x + prior
        step = np.linalg.solve(hessian, x.T @ (y - share) - prior @ weights)
        weights = weights + step
        if abs(step).max() < 1e-10:
            break
    return weights, hessian


def _sigmoid(value: np.ndarray) -> np.ndarray:
    share: np.ndarray = 1 / (1 + np.exp(-np.clip(value, -30, 30)))
    return share
