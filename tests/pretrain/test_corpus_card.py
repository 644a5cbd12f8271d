"""The data card: shares by hand, and a classifier of the transformers library."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llamatrain.errors import UserError
from pretrain.corpus.card import Counts, Sampled, as_markdown, count, describe, sampled, toxicity
from pretrain.corpus.pieces import Piece, PieceWriter
from pretrain.corpus.toxicity import score as score_piece

TEXTS = [
    "She said it was hers.",
    "He and they met; a Christian and an American, both American.",
    "I like you.",
    "Nothing of the kind. Theory, shear and usher are no pronouns.",
]


def test_shares_of_documents() -> None:
    counts = Counts()
    count(counts, np.arange(4), TEXTS, Sampled(1.0))
    found = describe([counts.content(), Counts().content()], Counter({"en": 3, "de": 1}), english=False)
    assert found["documents"] == 4
    assert found["pronouns"] == {
        "gendered": 0.5,
        "she": 0.5,
        "he": 0.5,
        "unspecified": 0.5,
        "person": 0.75,
        "first": 0.25,
        "second": 0.25,
        "third": 0.5,
    }
    assert found["identity"]["nationality"] == {"share": 0.25, "top": {"american": 1.0}}
    assert found["identity"]["religion"] == {"share": 0.25, "top": {"christian": 1.0}}
    assert found["identity"]["gender and sex"] == {"share": 0.0, "top": {}}
    assert found["languages"] == {"en": 0.75, "de": 0.25}
    page = as_markdown(found)
    assert "| nationality | 25.00% | american 100.0% |" in page
    assert "| en | 75.000% |" in page


def test_the_sample_is_a_share_and_the_same_each_time() -> None:
    numbers = np.arange(100_000)
    chosen = sampled(numbers, 0.1)
    assert chosen.mean() == pytest.approx(0.1, abs=0.005)
    assert (sampled(numbers[500:], 0.1) == chosen[500:]).all()
    assert not sampled(numbers, 0.0).any()
    assert sampled(numbers, 1.0).all()


@pytest.mark.slow
def test_a_document_is_the_mean_of_its_lines(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "bad": 2, "good": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(vocab_size=4, id2label={0: "TOXIC", 1: "fine"}, **shape)).eval()
    model.classifier.weight.data *= 50
    model.save_pretrained(tmp_path)

    def score(line: list[int]) -> float:
        with torch.no_grad():
            return float(model(input_ids=torch.tensor([line])).logits.softmax(-1)[0, 0])

    one, other = score([2, 3, 3]), score([2])
    texts = ["bad", "bad good good\n\nbad", "bad", "good"]
    writer = PieceWriter(tmp_path / "piece")
    for number, text in enumerate(texts):
        writer.add(text, number, None)
    writer.close(Counter())
    piece = Piece(tmp_path / "piece", 0, False, 1, len(texts))
    np.save(tmp_path / "status.npy", np.array([0, 5, 0, 0, 0], dtype=np.uint8))  # the first is another piece's
    np.save(tmp_path / "english.npy", np.array([True, True, True, True, False]))
    score_piece(tmp_path, piece, tmp_path / "status.npy", str(tmp_path), Sampled(1.0, tmp_path / "english.npy"))
    found = toxicity(str(tmp_path), np.load(tmp_path / "scores.npy"))
    assert found["documents"] == 2
    assert found["mean"] == pytest.approx(((one + other) / 2 + other) / 2, abs=1e-5)
    assert found["toxic"] == np.mean([(one + other) / 2 >= 0.5, other >= 0.5])
    with pytest.raises(UserError, match="need a folder with a config"):
        score_piece(tmp_path, piece, tmp_path / "status.npy", str(tmp_path / "nowhere"), Sampled(1.0))
