"""Contamination: against a plain reference, and the program from files to subsets."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from llamatrain import config
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer
from pretrain.corpus import matching
from pretrain.corpus.contamination import ContaminationConfig, report, verbalised
from pretrain.corpus.matching import GRAM, Index, match
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


def test_the_program_tells_the_subsets(tmp_path: Path, tokenizer: Tokenizer) -> None:
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
    report(config.compose("corpus_contamination", ContaminationConfig, overrides))
    found = json.loads((tmp_path / "found" / "contamination.json").read_text())["planted"]
    assert list(found) == ["10", "20", "30", "40", "50"]
    assert {name: found["50"][name] for name in ("clean", "not clean", "not dirty", "dirty")} == {
        "clean": 5,
        "not clean": 2,
        "not dirty": 6,
        "dirty": 1,
    }
    samples = [json.loads(line) for line in (tmp_path / "found" / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["50"] > 0.9
    assert 0.3 < samples[1]["50"] < 0.7
    assert (tmp_path / "found" / "contamination.md").read_text().count("| planted |") == 5


def test_rows_are_told_as_asked() -> None:
    row = {"query": "Why?", "choices": ["a", "b"], "gold": 1}
    assert verbalised(row, "{query}\n{choices}", "f:1") == "Why?\na\nb"
    assert verbalised({"text": "t"}, None, "f:1") == "t"
    assert verbalised({"messages": [{"content": "a"}], "chosen": "b"}, None, "f:1") == "a\nb"
    with pytest.raises(UserError, match=r"f:1: template '\{question\}': .*'question'; it has query, choices, gold"):
        verbalised(row, "{question}", "f:1")
    with pytest.raises(UserError, match="f:1: has neither text nor messages; needs a template"):
        verbalised(row, None, "f:1")
