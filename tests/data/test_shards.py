"""Shards: what is written comes back, what was damaged is named."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from llamatrain.data import shards
from llamatrain.data.rows import write_rows
from llamatrain.errors import MissingFileError, UserError
from llamatrain.tokenizer import Tokenizer
from pretrain.corpus.config import VerifyConfig
from pretrain.corpus.verify import verify
from tests.corpora import write_corpus

TEXTS = ["The red fox.", "A bear and a whale.", "🙂", "To bake bread, mix flour and water.", "Yes."]


@pytest.fixture
def corpus(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """Two sources of one document a shard and of two."""
    write_rows(tmp_path / "d.jsonl", ({"text": text, "source": "s"} for text in TEXTS))
    sources = {"one": str(tmp_path / "d.jsonl"), "two": str(tmp_path / "d.jsonl")}
    write_corpus(tmp_path / "corpus" / "train", sources, tokenizer, shard_documents=2)
    return tmp_path / "corpus"


def test_a_source_is_one_sequence_over_its_shards(corpus: Path, tokenizer: Tokenizer) -> None:
    manifest = shards.read_manifest(corpus / "train", tokenizer)
    expected = [token for text in TEXTS for token in tokenizer.encode(text, bos=True, eos=True)]
    for source in manifest.sources:
        stream = shards.TokenStream(corpus / "train", source, manifest.dtype)
        assert (len(stream), source.shards) == (len(expected), 3)
        for start in range(len(expected)):
            for length in (0, 1, 7, 40, 999):
                assert stream.read(start, length).tolist() == expected[start : start + length]
        begins = [
            int(stream.starts[number]) + begin
            for number in range(3)
            for begin in np.fromfile(corpus / "train" / source.name / f"{number:08d}.documents", np.int64)[:-1].tolist()
        ]
        assert begins == [place for place, token in enumerate(expected) if token == tokenizer.bos_id]


def test_blocks_make_the_shard_that_documents_make(tmp_path: Path, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode(text) for text in TEXTS]
    one = shards.write_shard(tmp_path / "one", 0, ids, tokenizer)
    whole = np.array([t for i in ids for t in (tokenizer.bos_id, *i, tokenizer.eos_id)], dtype=np.uint16)
    lengths = np.array([len(i) + 2 for i in ids])
    empty = (np.empty(0, np.uint16), np.empty(0, np.int64))
    blocks = [(whole[:0], lengths), (whole[:5], lengths[:0]), empty, (whole[5:], lengths[:0])]
    assert shards.write_shard_blocks(tmp_path / "two", 0, blocks) == one


def test_damage_is_named_all_of_it(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(VerifyConfig(str(corpus)))
    assert "14 files are intact" in capsys.readouterr().err
    train = corpus / "train"
    altered = train / "one" / "00000000.tokens"
    altered.write_bytes(b"\7" + altered.read_bytes()[1:])
    cut = train / "one" / "00000001.tokens"
    cut.write_bytes(cut.read_bytes()[:-2])
    (train / "two" / "00000002.documents").unlink()
    (train / "two" / "shards.bin").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        verify(VerifyConfig(str(corpus)))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"4 of 14 files of {corpus} are damaged"
    assert [line.removeprefix(f"{train}/").split(" ", 1) for line in lines[1:-1]] == [
        ["one/00000000.tokens", "was altered: its sha256 is not the one in its index"],
        ["one/00000001.tokens", f"has {cut.stat().st_size} bytes, its index says {cut.stat().st_size + 2}"],
        ["two/shards.bin", "does not agree with shards.jsonl"],
        ["two/00000002.documents", "is missing"],
    ]
    with (train / "one" / "shards.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"one/shards\.jsonl was altered"):
        verify(VerifyConfig(str(corpus)))
    with pytest.raises(MissingFileError, match="llamatrain corpus"):
        verify(VerifyConfig(str(corpus / "nowhere")))


def test_a_cut_shard_is_refused_when_it_is_read(corpus: Path) -> None:
    path = corpus / "train" / "one" / "00000001.tokens"
    path.write_bytes(path.read_bytes()[:-2])
    manifest = shards.read_manifest(corpus / "train")
    stream = shards.TokenStream(corpus / "train", manifest.sources[0], manifest.dtype)
    stream.read(0, 3)
    with pytest.raises(UserError, match=r"00000001\.tokens has \d+ bytes, its index says \d+ bytes"):
        stream.read(0, 999)


def test_opening_takes_no_longer_for_many_shards(tmp_path: Path, tokenizer: Tokenizer) -> None:
    count = 50_000
    files = {"tokens": {"bytes": 200, "sha256": ""}, "documents": {"bytes": 16, "sha256": ""}}
    entries = [{"name": f"{number:08d}", "tokens": 100, "documents": 1, "files": files} for number in range(count)]
    (tmp_path / "many").mkdir()
    index = shards.write_index(tmp_path / "many", entries)
    source = shards.Source("many", 1.0, "", 100 * count, count, 0, 0, count, index)
    shards.write_manifest(tmp_path, shards.Manifest("uint16", 400, 1, 2, tokenizer.fingerprint, [source]))
    started = time.perf_counter()
    stream = shards.TokenStream(tmp_path, shards.read_manifest(tmp_path).sources[0], "uint16")
    assert time.perf_counter() - started < 0.1
    assert len(stream) == 100 * count
    with pytest.raises(UserError, match=r"00012345\.tokens is missing"):
        stream.read(1_234_500, 5)


def test_a_manifest_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {}}))
    with pytest.raises(
        UserError, match=r"manifest\.json is damaged: dtype is missing; rebuild it with `llamatrain corpus`"
    ):
        shards.read_manifest(tmp_path)
