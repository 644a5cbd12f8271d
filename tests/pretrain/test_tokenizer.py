"""Program `tokenizer`: Llama's settings in the model it writes, the same model each time, refusals in plain words."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamatrain import hf_tokenizer
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.stopping import Stopped
from llamatrain.tokenizer import Tokenizer
from pretrain.config import TokenizerConfig
from pretrain.tokenizer import train, train_model

TEXT = (
    "The red fox lives in 12 forests near the river.\n    It bakes  bread, and nobody knows why.\n"
    "Où est le renard? Le renard dort déjà.\nx = 3 * y + 1\n\tand tabs\n"
) * 5


def settings(tmp_path: Path, *more: str) -> TokenizerConfig:
    write_rows(tmp_path / "documents.jsonl", [{"text": TEXT, "source": "s"}])
    documents = f"documents=[{tmp_path / 'documents.jsonl'}]"
    common = ["run.name=t", f"run.dir={tmp_path}", "run.progress=false", "run.wandb.mode=disabled", "vocab_size=400"]
    return compose("tokenizer", TokenizerConfig, [*common, documents, *more])


def test_the_program_writes_a_llama_tokenizer(tmp_path: Path) -> None:
    train(settings(tmp_path))
    tokenizer = Tokenizer(tmp_path / "t")
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (400, 1, 2)
    pieces = tokenizer.encode("12 12")
    assert len(pieces) == 6  # space and two digits, twice: digits are split
    for text in ("  two  spaces ", "日本 🙂", "a\tb\nc", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not {0} & set(tokenizer.encode("日本 🙂"))  # bytes, not <unk>
    assert sorted(path.name for path in (tmp_path / "t").glob("token*")) == [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    cfg = settings(tmp_path)
    write_rows(tmp_path / "documents.jsonl", [{"text": TEXT * 2, "source": "s"}])
    with pytest.raises(UserError, match=r"what 'documents' names changed since .* was finished"):
        train(cfg)
    assert Tokenizer(tmp_path / "t").fingerprint == tokenizer.fingerprint


def test_the_model_file_holds_the_released_settings(tmp_path: Path) -> None:
    model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    cfg = settings(tmp_path)
    proto = model_pb2.ModelProto.FromString(train_model([TEXT], cfg.vocab_size, cfg.trainer))
    spec, normalizer = proto.trainer_spec, proto.normalizer_spec
    expected: dict[str, Any] = {
        "model_type": 2,
        "vocab_size": 400,
        "byte_fallback": True,
        "split_digits": True,
        "split_by_unicode_script": True,
        "split_by_whitespace": True,
        "split_by_number": True,
        "allow_whitespace_only_pieces": True,
        "treat_whitespace_as_suffix": False,
        "input_sentence_size": 200_000_000,
        "shuffle_input_sentence": True,
        "max_sentence_length": 4192,
        "max_sentencepiece_length": 16,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
    }
    assert {name: getattr(spec, name) for name in expected} == expected
    assert spec.character_coverage == pytest.approx(0.99995)
    assert (normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces) == (
        "identity",
        True,
        False,
    )
    assert [proto.pieces[i].piece for i in (0, 1, 2, 3, 258)] == ["<unk>", "<s>", "</s>", "<0x00>", "<0xFF>"]


def test_the_same_text_gives_the_same_pieces_on_any_number_of_threads(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    one, again, two = (train_model([TEXT], 400, cfg.trainer, threads) for threads in (1, 1, 2))
    assert one == again
    path = tmp_path / "tokenizer.model"
    pieces = []
    for model in (one, two):  # the files differ in the number of threads that they record
        path.write_bytes(model)
        hf_tokenizer.save(Tokenizer(path), tmp_path)
        pieces.append((tmp_path / "tokenizer.json").read_text())
    assert pieces[0] == pieces[1]


def test_long_lines_are_not_lost(tmp_path: Path) -> None:
    """SentencePiece drops lines above max_sentence_length: a word that only such a line holds still becomes a piece."""
    cfg = settings(tmp_path)
    model = tmp_path / "tokenizer.model"
    model.write_bytes(train_model([TEXT, "quokka " * 2000], 400, cfg.trainer))
    assert len(Tokenizer(model).encode("quokka")) == 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (50_000, "vocab_size=50000: the documents have too little text"),
        (270, "vocab_size=270: bytes and single characters"),
    ],
)
def test_sizes_that_do_not_suit_the_text_are_refused(size: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{message}.*need"):
        train(settings(tmp_path, f"vocab_size={size}"))


def test_no_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"documents=\[\]"):
        train(settings(tmp_path, "documents=[]"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"text": "a", "source": "x"}\n\n', r"x\.jsonl:2: the line is empty"),
        ("x.jsonl", b'{"text": 3, "source": "x"}\n', r"x\.jsonl:1: field 'text' of the document: found 3"),
        (
            "x.jsonl.gz",
            gzip.compress(b'{"text": "a", "source": "x"}\n', mtime=0)[:-9],
            r"x\.jsonl\.gz: truncated or damaged gzip file",
        ),
    ],
)
def test_a_bad_row_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        train(settings(tmp_path, f"documents=[{tmp_path / name}]"))


def test_a_stop_ends_the_training_of_pieces(tmp_path: Path) -> None:
    """A signal arrives in the middle of SentencePiece, which makes a RuntimeError of whatever Python raises."""

    def texts() -> Iterator[str]:
        yield "a"
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        train_model(texts(), 300, settings(tmp_path).trainer)


def test_settings_that_sentencepiece_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SentencePiece refuses vocab_size=400, trainer"):
        train(settings(tmp_path, "trainer.unk_id=9999"))


@pytest.mark.parametrize(
    ("override", "need"),
    [
        ("trainer.model_type=unigram", "bpe"),
        ("trainer.normalization_rule_name=nmt_nfkc", "identity"),
        ("trainer.add_dummy_prefix=false", "true"),
        ("trainer.remove_extra_whitespaces=true", "false"),
        ("trainer.treat_whitespace_as_suffix=true", "false"),
    ],
)
def test_settings_that_other_tools_cannot_follow_are_refused(override: str, need: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{override}: need {need}, as in Llama's tokenizer"):
        settings(tmp_path, override)
