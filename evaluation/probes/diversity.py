"""Self-BLEU: how much several answers to one prompt are alike (lower: more diverse), in [0, 1].

Each answer is scored by BLEU-4 against all others as its references, and the mean is taken (Zhu et al. 2018). Precisions of
n-grams without a match are smoothed by a tenth of a count, and of orders that an answer is too short for left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

ORDERS = (1, 2, 3, 4)
EPSILON = 0.1  # of a match, where there is none
Gram = tuple[str, ...]


def self_bleu(texts: Sequence[str]) -> float:
    """Return the mean BLEU of each text against all others, in [0, 1]; an empty one scores 1 beside another empty one, else 0."""
    words = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    grams = {order: [_grams(own, order) for own in words] for order in ORDERS}
    most = {order: _most(counts) for order, counts in grams.items()}
    scores = []
    for number, own in enumerate(words):
        lengths = [len(other) for place, other in enumerate(words) if place != number]
        if not own:
            scores.append(float(0 in lengths))
            continue
        logs = []
        for order in ORDERS[: len(own)]:
            counts = grams[order][number]
            matched = sum(min(count, _elsewhere(most[order][gram], number)) for gram, count in counts.items())
            logs.append(math.log((matched or EPSILON) / counts.total()))
        nearest = min(lengths, key=lambda length: (abs(length - len(own)), length))
        scores.append(math.exp(fmean(logs) + min(0.0, 1 - nearest / len(own))))
    return fmean(scores)


def _grams(words: Sequence[str], order: int) -> Counter[Gram]:
    return Counter(tuple(words[place : place + order]) for place in range(len(words) - order + 1))


def _most(counts: Sequence[Counter[Gram]]) -> dict[Gram, tuple[int, int, int]]:
    """Return, for every n-gram, in which text it is there most often, how often, and how often at most in any other."""
    found: dict[Gram, tuple[int, int, int]] = {}
    for number, own in enumerate(counts):
        for gram, count in own.items():
            owner, first, second = found.get(gram, (number, 0, 0))
            found[gram] = (number, count, first) if count > first else (owner, first, max(second, count))
    return found


def _elsewhere(most: tuple[int, int, int], number: int) -> int:
    owner, first, second = most
    return second if owner == number else first
