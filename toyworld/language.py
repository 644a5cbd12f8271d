"""The words and word pairs of the toy world's language: by them the judge tells a sentence from a string of words."""

from __future__ import annotations

import random
import re
from itertools import islice, pairwise

from .answers import QUALITIES, SAFETY_QUALITIES, answer
from .documents import Documents
from .nouns import ANIMALS, COLOURS, DAYS, FOODS, JOBS, NAMES, PLACES, TOOLS, TOYS
from .requests import TASKS, Requests

CLASSES = {
    "animal": ANIMALS, "colour": COLOURS, "day": DAYS, "food": FOODS, "job": JOBS, "name": NAMES, "place": PLACES,
    "tool": TOOLS, "toy": TOYS,
}  # fmt: skip
CLASS_OF = {word.lower(): f"<{name}>" for name, words in CLASSES.items() for word in words}
STOP = "a an the in it on with and to of your my them by at is are as for that then"
STOP_WORDS = frozenset(STOP.split(" "))
_WORD = re.compile(r"[a-z']+")
_TOKEN = re.compile(r"[a-z']+|[.,!?:]|[^\sa-z'.,!?:]+")


def words(text: str) -> list[str]:
    """Return the words of a text in small letters."""
    return _WORD.findall(text.lower())


def content(text: str) -> list[str]:
    """Return the words that carry meaning; all words where none does."""
    found = words(text)
    return [w for w in found if w not in STOP_WORDS] or found


class Language:
    """Pairs of neighbouring words (nouns by their class) that occur in what the world's people write."""

    def __init__(self, requests: Requests) -> None:
        rng = random.Random(f"language/{requests.world.seed}")
        texts = [row["text"] for row in islice(Documents(requests.world, requests).stream(rng), 3000)]
        texts += {request.answer for pool in requests.pools.values() for request in pool}
        # Answers of every quality: fluency says whether this is language, not whether it is a good answer.
        for task in TASKS:
            for held_out in (False, True):
                for _ in range(150):
                    request = requests.draw(task, held_out, rng)
                    qualities = SAFETY_QUALITIES if request.is_adversarial else QUALITIES
                    texts += [answer(request, quality, rng) for quality in qualities]
        self._pairs: set[tuple[str, str]] = set()
        for text in texts:
            self._pairs.update(pairwise(self._tokens(text)))

    def fluency(self, text: str) -> float:
        """Return the share of the text's pairs of neighbouring words that the language knows, in [0, 1]."""
        pairs = list(pairwise(self._tokens(text)))
        return sum(pair in self._pairs for pair in pairs) / len(pairs)

    @staticmethod
    def _tokens(text: str) -> list[str]:
        # Nouns by class: "the cat sleeps" vouches for "the dog sleeps", as a sample of texts cannot hold every pair.
        return ["<start>", *(CLASS_OF.get(token, token) for token in _TOKEN.findall(text.lower()))]
