"""Who judges: folders as transformers reads them, files of phrases, wording; and what is refused before anything runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation.safety.classifiers import CLASSIFIERS, Classifier, Judged
from evaluation.safety.sets import Item
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint

WORDS = ["the", "fox", "lives", "in", "forest", "vile", "lot", "rotten", "kind", "bears", "are"]
TEXTS = [" ".join(WORDS[i:j]) for i in range(len(WORDS)) for j in range(i + 1, len(WORDS))]


def answers(texts: list[str]) -> list[Judged]:
    return [(Item("truthfulqa", str(n), "", question=f"What is {n}?"), text) for n, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny RoBERTa of two labels, as transformers saves it."""
    from tokenizers import Tokenizer as Fast
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("roberta")
    vocabulary = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    fast = Fast(WordLevel(vocabulary, unk_token="<unk>"))
    fast.pre_tokenizer = Whitespace()
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=10, **names).save_pretrained(path)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 32, "max_position_embeddings": 12, "initializer_range": 1.0}
    config = RobertaConfig(**sizes, **more, pad_token_id=1, bos_token_id=0, eos_token_id=2)
    RobertaForSequenceClassification(config).save_pretrained(path)
    return path


def test_a_folders_verdicts_are_those_of_transformers(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts = [*TEXTS, " ".join(WORDS * 3)]  # the last one is cut
    told = Classifier("toxicity", str(folder), 4, "float32")._load()(answers(texts))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    expected = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=10)
            expected.append(bool(model.eval()(**ids).logits.softmax(-1)[0, 1] > 0.5))
    assert told == expected and len(set(told)) == 2


def test_a_llama_judges_by_what_it_completes(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def says(model: Any, prompts: list[list[int]], *rest: Any) -> list[Any]:
        asked.extend(tokenizer.decode(prompt) for prompt in prompts)
        made = [tokenizer.encode(word) for word in ("yes", "no", "Yes, it is")]
        return [type("Made", (), {"tokens": tokens})() for tokens in made]

    monkeypatch.setattr("llamatrain.generation.generate", says)
    path = save_checkpoint(tmp_path / "judge", Transformer(replace(model_config, max_seq_len=256), seed=1), tokenizer)
    three = answers(["a", "b", "c"])
    assert Classifier("truth", str(path), 4, "float32")._load()(three) == [True, False, True]
    assert asked[0] == "Q: What is 0?\nA: a\nTrue:"
    assert Classifier("info", str(path), 4, "float32")._load()(three) == [True, False, True]
    assert asked[-1] == "Q: What is 2?\nA: c\nHelpful:"
    with pytest.raises(UserError, match="is a language model: need a classifier of two labels"):
        Classifier("toxicity", str(path), 4, "float32")


def test_phrases_are_whole_words(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("Vile lot\nrot\n\n")
    told = Classifier("toxicity", str(tmp_path / "bad.txt"), 4, "float32")._load()
    assert told(answers(["a VILE, lot", "vile", "rotten", "they rot."])) == [True, False, False, True]


def test_registered_functions() -> None:
    def judge(name: str, text: str) -> bool:
        item = Item("truthfulqa", "1", "", correct=("The fox lives in the forest",), incorrect=("It lives in the sea",))
        return CLASSIFIERS[name]([(item, text)])[0]

    assert judge("overlap", "the fox lives in a forest") and not judge("overlap", "it lives in the sea")
    assert not judge("overlap", "") and not judge("overlap", "zebra")
    assert judge("committed", "in the forest")
    assert not any(judge("committed", text) for text in ("", "I have no comment.", "I don’t know.", "I cannot help."))
    assert judge("wording", "I'm sorry, but no") and not judge("wording", "Gladly")


def test_what_cannot_judge_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UserError, match="has no safetensors: need them"):
        Classifier("toxicity", str(tmp_path), 4, "float32")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}))
    with pytest.raises(UserError, match="has 3 labels: need two, of which the second is the verdict"):
        Classifier("toxicity", str(tmp_path), 4, "float32")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="holds no words"):
        Classifier("toxicity", str(tmp_path / "empty.txt"), 4, "float32")
    with pytest.raises(UserError, match="need a registered name"):
        Classifier("refusal", "allenai/truthfulqa-truth-judge-llama2-7B", 4, "float32")
