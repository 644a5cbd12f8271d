"""Which pairs a reward model is trained on: its own data, and a share of other data mixed in (paper 3.2.2, "Data
Composition").

The helpfulness model takes all of its own pairs and as many from the rest (`mix_share` 0.5); the safety model 90 %
safety and 10 % helpfulness pairs (`mix_share` 0.1), which helps it where both responses are safe.

Not in the paper: pairs whose rejected response answers another prompt (`off_topic`; Liu et al. 2024, arXiv 2409.13156). In what
people compare both responses are about the prompt, so that nothing teaches a model to ask whether they are; a policy finds out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llamatrain.data.kinds import RATINGS
from llamatrain.data.order import mix, permuted
from llamatrain.responses.pairs import Made, Pair

CANDIDATES = 8  # pairs among which the one with the likest prompt gives the response that is off topic


def mixed_count(own: int, share: float) -> int:
    """Return how many other pairs make `share` of the whole, beside all `own` pairs."""
    return math.floor(own * share / (1 - share) + 0.5)


def draw(available: int, count: int, seed: int) -> list[int]:
    """Return `count` of the indices below `available`, drawn uniformly without replacement.

    Where more are needed than there are, all are taken as often as they fit and the rest is drawn. The same seed
    draws the same ones, and a larger count includes a smaller one's.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        places = np.arange(min(available, count - len(chosen)))
        # Each round has an order of its own, seeded by where it begins: so a smaller count is a prefix.
        chosen += permuted(places, available, mix(seed, len(chosen))).tolist()
    return chosen


class OffTopic(Made):
    """Some of the pairs again, each with its chosen response against the chosen one of another prompt, clearly rejected.

    Of a few other pairs it is the one whose prompt has most tokens in common with its own: to tell "Max works as a painter"
    from "Tom works as a farmer" a model has to read the question. Only responses that fit into `max_length` are taken.
    """

    def __init__(self, pairs: Sequence[Pair], count: int, seed: int, max_length: int) -> None:
        self.pairs, self.seed, self.max_length = pairs, seed, max_length
        self.numbers = draw(len(pairs), count, mix(seed, 1))

    def __len__(self) -> int:
        return len(self.numbers)

    def at(self, place: int) -> Pair:
        """Return a pair by its place; where no other one will do, its own rejected response stays."""
        number = self.numbers[place]
        own = self.pairs[number]
        asked, answer = set(own.chosen[: own.prompt].tolist()), own.chosen[own.prompt :].tobytes()
        best, closest = own, -1.0
        for other in draw(len(self.pairs), min(CANDIDATES, len(self.pairs)), mix(self.seed, place + 2)):
            pair = self.pairs[other]
            prompt = pair.chosen[: pair.prompt]
            alike = len(asked & set(prompt.tolist())) / len(asked | set(prompt.tolist()))
            same = (
                prompt.tobytes() == own.chosen[: own.prompt].tobytes() or pair.chosen[pair.prompt :].tobytes() == answer
            )
            rejected = np.concatenate([own.chosen[: own.prompt], pair.chosen[pair.prompt :]])
            if not same and alike > closest and len(rejected) <= self.max_length:
                best, closest = replace(own, rejected=rejected, rating=RATINGS[0], rejected_safe=None), alike
        return best
