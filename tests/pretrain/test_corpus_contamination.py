"""Contamination: against a plain reference, and the program from files to subsets and their verdict."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer
from pretrain.corpus import contamination, matching
from pretrain.corpus.config import GRAM, ContaminationConfig
from pretrain.corpus.contamination import read_scores, report, verbalised
from pretrain.corpus.matching import Index, match
from pretrain.corpus.verdict import SUBSETS, as_markdown, describe, judge, z_score
from tests.corpora import write_corpus


def reference(sample: list[int], documents: list[list[int]], length: int, budget: int) -> float:
    """Contamination of one sample: every pair of beginnings, token by token."""
    inside = [False] * len(sample)
    for document in documents:
        for i in range(len(sample)):
            for p in range(len(document)):
                reach = misses = 0
                for k in range(min(len(sample) - i, len(document) - p)):
                    if sample[i + k] == document[p + k]:
                        reach = k + 1
                    elif k < GRAM or misses == budget:
                        break
                    else:
                        misses += 1
                if reach > length:
                    inside[i : i + reach] = [True] * reach
    return sum(inside) / max(len(sample), 1)


@pytest.mark.parametrize("budget", [0, 1, 4])
def test_a_plain_reference_agrees(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(budget)
    monkeypatch.setattr(matching, "PAIRS", 7)
    documents = [[rng.randrange(2, 4) for _ in range(rng.randrange(60))] for _ in range(4)]
    documents += [[rng.randrange(2, 50) for _ in range(80)] for _ in range(3)]
    samples = [[rng.randrange(2, 50) for _ in range(rng.randrange(40))] for _ in range(4)]
    for _ in range(12):  # pieces of documents, altered here and there
        document = rng.choice(documents)
        start = rng.randrange(max(1, len(document) - 20))
        piece = document[start : start + rng.randrange(10, 60)]
        samples.append(
            [token if rng.random() > 0.06 else 99 for token in piece] + [rng.randrange(2, 50)] * rng.randrange(9)
        )
    index = Index.of(samples)
    stream = np.array([token for document in documents for token in [1, *document, 2]], dtype=np.int64)
    # 2 closes a document and stands in texts here: only the beginning of the next one parts them
    stream[stream == 1] = -2
    whole = [[*document, 2] for document in documents]
    reach = np.zeros(len(index.tokens), dtype=np.int32)
    for start in range(0, len(stream), 50):
        match(index, index.filter(), stream[start:], min(50, len(stream) - start), reach, budget)
    some = 0
    for length in (10, 15, 30):
        found = index.contaminated(reach, length).tolist()
        expected = [reference(sample, whole, length, budget) for sample in samples]
        assert found == pytest.approx(expected)
        some += sum(0 < share < 1 for share in expected)
    assert some > 3


def test_the_program_tells_the_subsets_and_judges_them(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    words = [
        "fox",
        "river",
        "bear",
        "bread",
        "song",
        "tree",
        "bird",
        "kind",
        "old",
        "small",
        "whale",
        "apple",
        "dough",
        "honey",
    ]
    texts = [" ".join(rng.choice(words) for _ in range(60)) for _ in range(30)]
    write_rows(tmp_path / "d.jsonl", ({"text": text, "source": "s"} for text in texts))
    write_corpus(tmp_path / "corpus" / "train", [str(tmp_path / "d.jsonl")], tokenizer, shard_documents=7)
    fresh = [" ".join(rng.choice(words) for _ in range(40)) for _ in range(5)]
    part = texts[3].split()[:30] + fresh[0].split()[:30]
    rows = [{"q": texts[0], "a": ["", ""]}, {"q": " ".join(part), "a": []}, *({"q": text, "a": []} for text in fresh)]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        f"corpus={tmp_path / 'corpus'}",
        f"tokenizer={tokenizer.path}",
        f"run.dir={tmp_path}",
        "run.name=found",
    ]
    overrides += ["run.progress=false", "run.wandb.mode=disabled", "num_workers=1"]
    overrides += [f"sets={{planted:{{path:{tmp_path / 'set.jsonl'},template:'{{q}}{{a}}'}}}}"]
    report(compose("corpus_contamination", ContaminationConfig, overrides))
    found = json.loads((tmp_path / "found" / "contamination.json").read_text())["planted"]
    assert list(found["lengths"]) == ["10", "20", "30", "40", "50"]
    assert {name: subset["n"] for name, subset in found["lengths"]["50"]["subsets"].items()} == {
        "clean": 5,
        "not clean": 2,
        "not dirty": 6,
        "dirty": 1,
    }
    assert "affected" not in found
    samples = [json.loads(line) for line in (tmp_path / "found" / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["50"] > 0.9
    assert 0.3 < samples[1]["50"] < 0.7
    assert (tmp_path / "found" / "contamination.md").read_text().count("| planted |") == 5
    # Scores that come later need no second reading of the corpus.
    monkeypatch.setattr(contamination, "match_stretch", None)
    write_rows(tmp_path / "scores.jsonl", ({"sample": n, "score": float(n < 2)} for n in reversed(range(7))))
    overrides[-1] = overrides[-1][:-2] + f",scores:{tmp_path / 'scores.jsonl'}}}}}"
    report(compose("corpus_contamination", ContaminationConfig, overrides))
    scored = json.loads((tmp_path / "found" / "contamination.json").read_text())["planted"]
    assert scored["score"] == pytest.approx(2 / 7)
    assert [scored["lengths"]["50"]["subsets"][name]["score"] for name in SUBSETS] == [0, 1, pytest.approx(1 / 6), 1]
    assert scored["affected"] is False  # there are too few
    assert "planted counts as not affected: at no L" in (tmp_path / "found" / "contamination.md").read_text()


def test_z_is_that_of_samples_drawn_from_the_whole_set() -> None:
    rng = np.random.default_rng(0)
    scores = rng.exponential(size=60)
    chosen = np.arange(60) % 4 == 1
    means = rng.choice(scores, (100_000, 15)).mean(axis=1)
    expected = (scores[chosen].mean() - means.mean()) / means.std()
    assert z_score(scores, chosen) == pytest.approx(expected, abs=0.01)


def planted(groups: list[tuple[int, float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return contamination and scores of samples: groups of a size, a contamination and a share of right answers."""
    shares = np.concatenate([np.full(size, share) for size, share, _ in groups])
    scores = np.concatenate([np.arange(size) < round(right * size) for size, _, right in groups])
    return shares, scores.astype(float)


@pytest.mark.parametrize(
    ("sizes", "means", "z"),
    [
        ((7391, 2651, 848), (0.800, 0.895, 0.922), [-5.73, 9.56, -2.27, 7.42]),  # HellaSwag, 70B
        ((3996, 709, 520), (0.622, 0.827, 0.858), [-4.08, 9.71, -3.50, 9.80]),  # MMLU-Humanities, 70B
    ],
)
def test_the_papers_table_51_follows_from_its_sizes_and_means(
    sizes: tuple[int, int, int], means: tuple[float, float, float], z: list[float]
) -> None:
    (clean, tainted, dirty), (low, high, highest) = sizes, means
    between = (tainted * high - dirty * highest) / (tainted - dirty)
    found = describe(*planted([(clean, 0.0, low), (tainted - dirty, 0.5, between), (dirty, 0.9, highest)]))
    assert [subset["n"] for subset in found["subsets"].values()] == [clean, tainted, clean + tainted - dirty, dirty]
    assert [subset["z"] for subset in found["subsets"].values()] == pytest.approx(z, abs=0.1)  # their means are rounded
    assert found["shows"]


def test_the_verdict_names_the_largest_length_that_shows() -> None:
    helped = planted([(600, 0.0, 0.5), (100, 0.5, 0.7), (200, 0.9, 0.9)])
    small = planted([(700, 0.0, 0.6), (190, 0.5, 0.7), (10, 0.9, 0.9)])
    found = {
        10: describe(*helped),
        20: describe(*helped),
        30: describe(*small),
        40: describe(*planted([(900, 0, 0.6)])),
    }
    assert [at["shows"] for at in found.values()] == [True, True, False, False]
    assert found[40]["undefined"] == "no samples: not clean, dirty"
    assert found[40]["subsets"]["dirty"] == {"n": 0, "contamination": None, "score": None, "z": None}
    verdict = judge(found)
    assert (verdict["affected"], verdict["length"]) == (True, 20)
    harmed = describe(*planted([(600, 0.0, 0.9), (100, 0.5, 0.7), (200, 0.9, 0.5)]))
    assert judge({10: harmed}) == {
        "affected": False,
        "length": None,
        "why": "at no L are all four |Z_n| > 2, clean worse and dirty better",
    }
    equal = describe(helped[0], np.full(900, 0.1))
    assert judge({10: equal, 20: found[40]})["why"] == (
        "Z_n is undefined at every L (all scores are equal; no samples: not clean, dirty)"
    )
    page = as_markdown({"s": {"samples": 900, "score": 0.6, "lengths": found, **verdict}}, "runs/corpus", 4)
    assert "| s | 20 | 0.6 | 0.5 (" in page
    assert "- s counts as affected: all four |Z_n| > 2, clean worse and dirty better, at L=20 and at no larger" in page
    json.dumps([found, equal], allow_nan=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"sample": 0, "score": 1}], "s.jsonl: 2 of 3 samples have no score, first: 1"),
        ([{"sample": 3, "score": 1}], r"s.jsonl:1: field 'sample': found 3, need a number from 0 to 2"),
        ([{"sample": 0, "score": 1}] * 2, "s.jsonl:2: sample 0 has a score already"),
        ([{"sample": 0, "score": None}], "s.jsonl:1: field 'score': found None, need a number"),
        ([{"id": "b", "score": 1}], "s.jsonl:1: field 'id': 2 samples have 'b'"),
        ([{"score": 1}], "s.jsonl:1: field 'sample': found None"),
    ],
)
def test_scores_belong_to_samples(rows: list[dict[str, object]], message: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "s.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read_scores(str(tmp_path / "s.jsonl"), ["a", "b", "b"])


def test_scores_are_told_by_number_or_id(tmp_path: Path) -> None:
    write_rows(tmp_path / "s.jsonl", [{"id": 7, "score": 0.5}, {"sample": 0, "score": True}])
    assert read_scores(str(tmp_path / "s.jsonl"), [None, 7]).tolist() == [1.0, 0.5]


def test_rows_are_told_as_asked() -> None:
    row = {"query": "Why?", "choices": ["a", "b"], "gold": 1}
    assert verbalised(row, "{query}\n{choices}", "f:1") == "Why?\na\nb"
    assert verbalised({"text": "t"}, None, "f:1") == "t"
    assert verbalised({"messages": [{"content": "a"}], "chosen": "b"}, None, "f:1") == "a\nb"
    with pytest.raises(UserError, match=r"f:1: template '\{question\}': .*'question'; it has query, choices, gold"):
        verbalised(row, "{question}", "f:1")
    with pytest.raises(UserError, match="f:1: has neither text nor messages; need a template"):
        verbalised(row, None, "f:1")
