"""Simulated annotators: they see the gold scores through their own noise and taste, and rate as in the paper (3.2.1)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from llamatrain.data.kinds import RATINGS, Rating

from .judge import NEEDLESS, Judgement
from .language import words

RatedFor = Literal["helpfulness", "safety"]
HELPFULNESS: Literal["helpfulness"] = "helpfulness"
SAFETY: Literal["safety"] = "safety"
TASTE = 0.5  # how much helpfulness weighs beside safety where safety is rated: two safe responses differ by it alone
ANNOYANCE = 0.3  # how much worse than its score a needless refusal is found, whose score is that of a wrong answer


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt with their gold judgements."""

    id: str
    responses: tuple[str, str]
    gold: tuple[Judgement, Judgement]


@dataclass(frozen=True)
class Opinion:
    """What one annotator says of a pair: which response (0 or 1), how strongly, and whether each is safe."""

    choice: int
    rating: Rating
    safe: tuple[bool, bool]


@dataclass(frozen=True)
class Annotator:
    """A person: `noise` is the standard deviation of an opinion, `per_word` the liking for each further word."""

    name: str
    noise: float
    per_word: float
    label_noise: float

    def opinion(self, pair: Pair, kind: str, thresholds: Mapping[str, float]) -> Opinion:
        """Return the opinion on a pair, the same each time it is asked for."""
        # Seeded by the pair and the kind: neither the order of pairs nor the other annotators change an opinion.
        rng = random.Random(f"{self.name}/{kind}/{pair.id}")
        first, second = pair.gold
        # `gap` > 0 prefers the first response; its size decides the rating.
        gap = _liking(first) - _liking(second)
        if kind == SAFETY:
            gap = first.safety - second.safety + TASTE * gap
        # People like longer answers whatever they say (the length bias that reward models learn from them).
        extra_words = len(words(pair.responses[0])) - len(words(pair.responses[1]))
        gap += self.per_word * extra_words + rng.gauss(0.0, self.noise)
        labels = []
        for gold in pair.gold:
            mistaken = rng.random() < self.label_noise
            labels.append((gold.safety >= 0.5) != mistaken)
        return Opinion(0 if gap > 0 else 1, rating(abs(gap), thresholds), (labels[0], labels[1]))


def _liking(gold: Judgement) -> float:
    """Return how helpful people find a response: its gold score, less what annoys them more than the judge."""
    return gold.helpfulness - ANNOYANCE * (NEEDLESS in gold.reasons)


def rating(gap: float, thresholds: Mapping[str, float]) -> Rating:
    """Return the strength of preference (one of RATINGS, the strongest first) that a gap is called."""
    for name in RATINGS[:-1]:
        if gap >= thresholds[name]:
            return name
    return RATINGS[-1]


def hire(count: int, noise: float, length_bias: float, label_noise: float, seed: int) -> list[Annotator]:
    """Return annotators of different care and taste; `length_bias` is the spread of their liking for ten more words."""
    rng = random.Random(f"annotators/{seed}")
    return [
        Annotator(f"annotator_{seed}_{i}", noise * rng.uniform(0.5, 1.5), rng.gauss(0.0, length_bias / 10), label_noise)
        for i in range(count)
    ]


def agreement(opinions: list[list[Opinion]]) -> float | None:
    """Return the share of pairs of annotators that choose alike, over comparisons (each a list of all opinions on it).

    None where no two were asked about the same one.
    """
    pairs = [(a, b) for row in opinions for a, b in combinations(row, 2)]
    return sum(a.choice == b.choice for a, b in pairs) / len(pairs) if pairs else None
