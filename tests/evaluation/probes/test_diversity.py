"""Self-BLEU as nltk computes it from its sentence BLEU, and by hand."""

from __future__ import annotations

import random

import pytest

from evaluation.probes.diversity import self_bleu


def test_it_is_nltks() -> None:
    rng = random.Random(0)
    words = ["a", "fox", "ran", "to", "the", "mill", "."]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 14))) for _ in range(25)]
    # sentence_bleu of nltk 3.10.4 against the other 24, SmoothingFunction(epsilon=0.1).method1, as a mean.
    assert self_bleu(texts) == pytest.approx(0.37325869342635926, rel=1e-9)


def test_by_hand() -> None:
    assert self_bleu(["the fox ran home now"] * 3) == pytest.approx(1)
    # "a b" against "a c": half of the words, and no pair of them.
    assert self_bleu(["a b", "a c"]) == pytest.approx((0.5 * 0.1) ** 0.5)
    assert self_bleu(["", ""]) == 1 and self_bleu(["", "a"]) == pytest.approx(0.05)
