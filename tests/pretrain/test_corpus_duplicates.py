"""Shingles and duplicates: against plain sets of words."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamatrain.data.rows import write_rows
from pretrain.corpus import duplicates, shingles
from pretrain.corpus.config import Cleaning, Duplicates, Languages
from pretrain.corpus.duplicates import remove
from pretrain.corpus.examining import EXACT, KEPT, NEAR, Examination, examine
from pretrain.corpus.pieces import numbered
from pretrain.corpus.reading import read_unit
from pretrain.corpus.sources import plain, units
from pretrain.corpus.work import Unseen, Work

WORDS = [f"w{i}" for i in range(300)]


def grams(text: str, size: int = 5) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def similarity(one: str, other: str, size: int = 5) -> float:
    return len(grams(one, size) & grams(other, size)) / len(grams(one, size) | grams(other, size))


def families(count: int, seed: int = 0) -> list[str]:
    """Texts, and texts made of earlier ones by changing some words, again and again."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        if texts and rng.random() < 0.7:
            words = rng.choice(texts[-20:]).split()
            for _ in range(rng.choice([0, 1, 1, 2, 4])):
                words[rng.randrange(len(words))] = rng.choice(WORDS)
        else:
            words = rng.choices(WORDS, k=rng.choice([1, 3, 5, 30, 80, 150]))
        texts.append(" ".join(words))
    return texts


def test_jaccard_is_that_of_sets_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shingles, "PAIRS", 50)
    texts = families(120)
    for size in (1, 3, 5):
        hashes, offsets = shingles.shingles([shingles.normalised(text) for text in texts], size)
        left, right = (np.random.default_rng(seed).integers(0, len(texts), 400) for seed in (1, 2))
        found = shingles.jaccard(hashes, offsets, left, right)
        expected = [similarity(texts[a], texts[b], size) for a, b in zip(left, right, strict=True)]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_bands_agree_as_often_as_they_should() -> None:
    rng = random.Random(1)
    agreed, expected = 0, 0.0
    for _ in range(60):
        words = rng.choices(WORDS, k=100)
        other = list(words)
        for _ in range(rng.randrange(5)):
            other[rng.randrange(100)] = "x"
        hashes, offsets = shingles.shingles([words, other], 5)
        keys = shingles.band_keys(hashes, offsets, bands=64, rows=4)
        agreed += int((keys[0] == keys[1]).sum())
        expected += 64 * similarity(" ".join(words), " ".join(other)) ** 4
    assert agreed == pytest.approx(expected, rel=0.1)
    assert shingles.found_with(0.8, 16, 8) == pytest.approx(0.947, abs=1e-3)


@contextmanager
def unseen(*arguments: Any, **named: Any) -> Iterator[Unseen]:
    yield Unseen()


def removed(
    folder: Path, texts: list[str], held_out: list[str], settings: Duplicates
) -> list[tuple[int, int, int, float]]:
    """Return (document, its status, its keeper, their similarity), held-out documents counted first."""
    paths = []
    for name, listed in (("d", texts), ("e", held_out)):
        write_rows(folder / f"{name}.jsonl", ({"text": text, "source": "s"} for text in listed))
        paths.append([str(folder / f"{name}.jsonl")] if listed else [])
    parts = units(plain(*paths), 4000)
    with Work(folder / "work", "key", 1, unseen) as work:
        read = work.run("read", read_unit, [(u, Cleaning(False, False, False, 0.0, 1, 0), "stop", 4000) for u in parts])
        pieces = numbered(read, [(unit.source, unit.held_out) for unit in parts])
        assert len(pieces) > 3
        asked = Examination(0, Languages(False, [], 0.5), settings, False)
        examined = work.run("examine", examine, [(piece, asked) for piece in pieces])
        status = np.concatenate([np.load(f / "status.npy") for f in examined])
        state = remove(work, pieces, status, settings)
    gone = np.flatnonzero(state.status != KEPT)
    return [(int(i), int(state.status[i]), int(state.keeper[i]), float(state.similarity[i])) for i in gone]


@pytest.mark.parametrize("exact", [True, False])
def test_every_removed_document_is_like_a_kept_one(
    exact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "RANGE", 100)
    monkeypatch.setattr(duplicates, "TEXT_BYTES", 3000)
    texts, held_out = families(400), families(400)[::40]
    settings = Duplicates(exact, True, True, 0.8, 5, 32, 4)
    found = removed(tmp_path, texts, held_out, settings)
    every = held_out + texts
    gone = {document for document, *_ in found}
    for document, status, keeper, value in found:
        assert document >= len(held_out)
        assert keeper not in gone
        assert value == pytest.approx(similarity(every[document], every[keeper]), abs=1e-6)
        assert value >= 0.8
        assert status in ((EXACT, NEAR) if exact else (NEAR,))
        assert status != EXACT or every[document].lower().split() == every[keeper].lower().split()
    # What is kept holds next to nothing that is like an earlier kept one: MinHash misses some, leaders are few.
    left = [i for i in range(len(held_out), len(every)) if i not in gone]
    missed = sum(any(similarity(every[i], every[j]) >= 0.8 for j in range(i) if j not in gone) for i in left)
    alike = sum(any(similarity(every[i], every[j]) >= 0.8 for j in range(i)) for i in range(len(held_out), len(every)))
    assert missed <= 0.1 * alike


@pytest.mark.parametrize("exact", [True, False])
def test_equal_documents_that_come_back_after_the_last_band_are_not_all_kept(exact: bool, tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = []
    for _ in range(60):  # each is like the one before it, the last two are equal and unlike the first
        words = rng.choices(WORDS, k=100)
        for places in ((), (10, 30), (50, 70)):
            for place in places:
                words[place] = "x"
            texts.append(" ".join(words))
        texts.append(texts[-1].upper())
    found = removed(tmp_path, texts, [], Duplicates(exact, True, True, 0.8, 5, 2, 4))
    gone = {document for document, *_ in found}
    left = [text.lower() for i, text in enumerate(texts) if i not in gone]
    assert len(set(left)) == len(left)
    assert sum(third not in gone for third in range(2, 240, 4)) > 10
    for document, _, keeper, value in found:
        assert keeper not in gone
        assert value == pytest.approx(similarity(texts[document], texts[keeper]), abs=1e-6)
        assert value >= 0.8


def test_without_held_out_ones_and_with_exact_ones_alone(tmp_path: Path) -> None:
    texts = families(100)
    [again] = {text for text in texts if len(text.split()) == 150 and texts.index(text) == min(
        i for i, t in enumerate(texts) if len(t.split()) == 150)}  # fmt: skip
    exact_only = Duplicates(True, False, False, 0.8, 5, 16, 8)
    found = removed(tmp_path / "one", [*texts, again], [again], exact_only)
    first = {}
    expected = []
    for number, text in enumerate([*texts, again], start=1):
        if text in first:
            expected.append((number, EXACT, first[text], 1.0))
        first.setdefault(text, number)
    assert found == expected
