"""Program `corpus`: the stream, the boundaries and the manifest, by hand."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamatrain import config
from llamatrain.data.rows import write_rows
from llamatrain.errors import MissingFileError, UserError
from llamatrain.tokenizer import Tokenizer
from pretrain import corpus
from pretrain.corpus import CorpusConfig, build, write_corpus

TEXTS = ["The red fox.", "12 apples\n\nand a  river", "🙂"]


def write(path: Path, texts: list[str]) -> str:
    write_rows(path, ({"text": text, "source": "s"} for text in texts))
    return str(path)


def read(folder: Path) -> tuple[list[int], list[int], dict[str, Any]]:
    manifest = json.loads((folder / "manifest.json").read_text())
    tokens = np.fromfile(folder / "tokens.bin", dtype=manifest["dtype"]).tolist()
    return tokens, np.fromfile(folder / "documents.bin", dtype=np.int64).tolist(), manifest


def test_stream_boundaries_and_manifest(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write(tmp_path / "d.jsonl", TEXTS)
    write_corpus(tmp_path / "train", [source], tokenizer)
    tokens, documents, manifest = read(tmp_path / "train")
    encoded = [tokenizer.encode(text, bos=True, eos=True) for text in TEXTS]
    assert tokens == [token for ids in encoded for token in ids]
    assert documents == [0, len(encoded[0]), len(encoded[0]) + len(encoded[1]), len(tokens)]
    assert manifest["dtype"] == "uint16"
    assert (manifest["tokens"], manifest["documents"], manifest["words"]) == (len(tokens), 3, 9)
    assert manifest["text_bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert (manifest["tokenizer"], manifest["vocab_size"]) == (tokenizer.fingerprint, 400)
    for name, entry in manifest["files"].items():
        content = (tmp_path / "train" / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_batches_threads_and_files_do_not_change_the_stream(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write(tmp_path / "all.jsonl", TEXTS)
    several = [write(tmp_path / f"{i}.jsonl.gz", [text]) for i, text in enumerate(TEXTS)]
    write_corpus(tmp_path / "one", [one], tokenizer)
    monkeypatch.setattr(corpus, "BATCH_CHARACTERS", 10)
    write_corpus(tmp_path / "several", several, tokenizer, num_threads=2)
    assert read(tmp_path / "one")[:2] == read(tmp_path / "several")[:2]


def test_a_failed_rebuild_leaves_no_manifest(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write(tmp_path / "d.jsonl", TEXTS)
    write_corpus(tmp_path / "train", [source], tokenizer)
    with (tmp_path / "d.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(UserError, match=r"d\.jsonl:4: not JSON"):
        write_corpus(tmp_path / "train", [source], tokenizer)
    assert not (tmp_path / "train" / "manifest.json").exists()


def compose(tmp_path: Path, *overrides: str) -> CorpusConfig:
    common = ["run.name=c", f"run.dir={tmp_path}", "run.progress=false", "run.wandb.mode=disabled"]
    return config.compose("corpus", CorpusConfig, [*common, *overrides])


def test_the_program_writes_both_parts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    train, held_out = write(tmp_path / "d.jsonl", TEXTS), write(tmp_path / "e.jsonl", TEXTS[:1])
    build(compose(tmp_path, f"documents=[{train}]", f"eval_documents=[{held_out}]", f"tokenizer={tokenizer.path}"))
    assert len(read(tmp_path / "c" / "train")[1]) == 4
    assert len(read(tmp_path / "c" / "eval")[1]) == 2
    [first, second] = [json.loads(line) for line in (tmp_path / "c" / "metrics.jsonl").read_text().splitlines()]
    assert first["corpus/train_documents"] == 3
    assert second["corpus/eval_tokens"] == len(read(tmp_path / "c" / "eval")[0])


def test_a_rerun_without_held_out_documents_leaves_none(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = write(tmp_path / "d.jsonl", TEXTS)
    common = [f"documents=[{source}]", f"tokenizer={tokenizer.path}"]
    build(compose(tmp_path, *common, f"eval_documents=[{source}]"))
    build(compose(tmp_path, *common))
    assert not (tmp_path / "c" / "eval").exists()


def test_folds_are_spelled_without_quotes_on_the_command_line(tmp_path: Path) -> None:
    cfg = compose(tmp_path, "documents=[fairytale_stories:/data/d.jsonl@without0/5,e.jsonl.gz]", "tokenizer=t")
    assert cfg.documents == ["fairytale_stories:/data/d.jsonl@without0/5", "e.jsonl.gz"]


def test_missing_things_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(MissingFileError, match="llamatrain tokenizer"):
        build(compose(tmp_path, "documents=[d.jsonl]", f"tokenizer={tmp_path}"))
    with pytest.raises(MissingFileError, match=r"d\.jsonl does not exist"):
        build(compose(tmp_path, "documents=[d.jsonl]", f"tokenizer={tokenizer.path}"))
    with pytest.raises(UserError, match=r"documents=\[\]"):
        compose(tmp_path, "documents=[]", "tokenizer=t")
