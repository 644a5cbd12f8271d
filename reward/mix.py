"""Which pairs a reward model is trained on: its own data, and a share of other data mixed in (paper 3.2.2, "Data
Composition").

The helpfulness model takes all of its own pairs and as many from the rest (`mix_share` 0.5); the safety model 90 %
safety and 10 % helpfulness pairs (`mix_share` 0.1), which helps it where both responses are safe.
"""

from __future__ import annotations

import math

import numpy as np

from llamatrain.data.order import mix, permuted


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
