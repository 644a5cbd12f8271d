"""Pretraining from a corpus to a base checkpoint."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pretrain.__main__ as program
from llamatrain import checkpoint, hf_folder
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.data.shards import read_manifest
from llamatrain.errors import MissingFileError, UserError
from llamatrain.tokenizer import Tokenizer
from pretrain.__main__ import dry_run, held_out_metrics, train
from pretrain.config import PretrainConfig
from tests.checkpoints import quiet, read_jsonl
from tests.conftest import TEXT
from tests.corpora import write_corpus

SMALL = [
    "model=tiny",
    "model.dim=32",
    "model.n_layers=1",
    "model.hidden_dim=64",
    "optim.lr=3e-3",
    "optim.warmup_steps=5",
]


def configure(folder: Path, corpus: Path, tokenizer: Tokenizer, *more: str) -> PretrainConfig:
    length = ["tokens=null", "steps=30", "seq_len=32", "batch_tokens=256", "micro_batch_size=4"]
    paths = [f"corpus={corpus}", f"tokenizer={tokenizer.path}"]
    return compose("pretrain", PretrainConfig, [*quiet(folder, "base"), *SMALL, *paths, *length, *more])


def test_learns_and_writes_a_checkpoint(tmp_path: Path, corpus: Path, tokenizer: Tokenizer) -> None:
    train(configure(tmp_path, corpus, tokenizer, "run.eval_every=15"))
    rows = read_jsonl(tmp_path / "base" / "metrics.jsonl")
    assert len(rows) == 30
    assert rows[0]["train/loss"] == pytest.approx(math.log(400), abs=0.3)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] - 1
    assert [row["step"] for row in rows if "eval/loss" in row] == [15, 30]
    last, counts = rows[-1], read_manifest(corpus / "eval")
    assert last["eval/perplexity"] == pytest.approx(math.exp(last["eval/loss"]))
    bits = last["eval/loss"] * (counts.tokens - 1) / math.log(2)  # the first token is not predicted
    assert last["eval/bits_per_byte"] == pytest.approx(bits / counts.text_bytes)
    for measure in ("loss", "perplexity", "bits_per_byte"):  # by source, of which there is one
        assert last[f"eval/{counts.sources[0].name}/{measure}"] == pytest.approx(last[f"eval/{measure}"])
    kinds = [value for key, value in rows[9].items() if key.startswith("train/grad_norm/")]
    assert len(kinds) == 5 and math.hypot(*kinds) == pytest.approx(rows[9]["train/grad_norm"], rel=1e-5)
    assert "train/mfu" not in last and not any("train/grad_norm/norm" in row for row in rows[:9])  # run.log_every
    folder = checkpoint.resolve(tmp_path / "base" / "final")
    assert hf_folder.load_config(folder)[0].vocab_size == tokenizer.vocab_size
    assert hf_folder.load_tokenizer(folder).fingerprint == tokenizer.fingerprint
    with pytest.raises(UserError, match=r"isolate_documents=True: .* was trained with False.*its loss halfway"):
        train(configure(tmp_path, corpus, tokenizer, "isolate_documents=true"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library does not count")
def test_a_long_run_does_not_grow(tmp_path: Path, corpus: Path, tokenizer: Tokenizer) -> None:
    """Below Python, too. PyTorch records the last 2,000 collectives; of ten the record is full soon."""
    paths = [f"corpus={corpus}", f"tokenizer={tokenizer.path}", *quiet(tmp_path, "base"), *SMALL]
    length = ["tokens=null", "steps=400", "seq_len=32", "batch_tokens=64", "micro_batch_size=2"]
    command = [
        sys.executable,
        "-m",
        "tests.pretrain.growth",
        *paths,
        *length,
        "run.eval_every=50",
        "run.save_every=100",
    ]
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # set by tests that ran in this process
    environment = {key: value for key, value in os.environ.items() if key not in ranks} | {"TORCH_FR_BUFFER_SIZE": "10"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    held = [int(line) for line in done.stdout.split()]
    assert len(held) == 8, done.stderr
    assert min(held[5:]) - held[3] < 100 * 100, held  # less than 100 bytes in each of some hundred steps


def test_without_held_out_documents_nothing_is_evaluated(tmp_path: Path, corpus: Path, tokenizer: Tokenizer) -> None:
    (corpus / "eval").rename(corpus / "set aside")
    train(configure(tmp_path, corpus, tokenizer, "steps=2"))
    assert not any("eval/loss" in row for row in read_jsonl(tmp_path / "base" / "metrics.jsonl"))


def test_the_defaults_are_the_papers() -> None:
    cfg = compose("pretrain", PretrainConfig, ["run.name=x", "corpus=c", "tokenizer=t"])
    assert (cfg.batch_tokens, cfg.total_steps, cfg.seq_len) == (1024 * 4096, 476_837, 4096)
    assert (cfg.optim.lr, cfg.optim.warmup(cfg.total_steps), cfg.isolate_documents) == (3e-4, 2000, False)
    assert cfg.model.parameters == 6_738_415_616


def test_plan_says_what_will_happen(tmp_path: Path, corpus: Path, tokenizer: Tokenizer) -> None:
    cfg = configure(tmp_path, corpus, tokenizer)
    text = dry_run(cfg, None)
    tokens = read_manifest(corpus / "train").tokens
    assert f"7,680 tokens = 30 steps of 256 = {7680 / tokens:.2f} epochs of {tokens:,}" in text
    assert "5 steps of warm-up" in text
    assert "8 rows of 32 = 1 rank x 2 accumulated micro-batches x 4 rows" in text
    assert "vocabulary 400" in text


def test_plan_says_how_often_each_source_is_gone_through(tmp_path: Path, tokenizer: Tokenizer) -> None:
    for name, times in (("web", 8), ("books", 1)):
        rows = [{"text": line, "source": name} for line in TEXT.splitlines()] * times
        write_rows(tmp_path / f"{name}.jsonl", rows)
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("web", "books")}
    write_corpus(tmp_path / "corpus" / "train", paths, tokenizer)
    sequences = {s.name: (s.tokens - 1) // 31 for s in read_manifest(tmp_path / "corpus" / "train").sources}
    text = dry_run(configure(tmp_path, tmp_path / "corpus", tokenizer), None)
    web, books = (30 * 8 / 2 / sequences[name] for name in ("web", "books"))
    assert web < 4 < books
    assert f"sources: web {web:.2f} epochs (50.0% of the sequences), books {books:.2f} epochs" in text
    assert f"warning: books is repeated for {books:.1f} epochs" in text and "warning: web" not in text
    text = dry_run(configure(tmp_path, tmp_path / "corpus", tokenizer, "mixture={web: 1}"), None)
    assert "books 0.00 epochs (0.0% of the sequences)" in text and "warning: books" not in text


def test_a_short_held_out_source_is_no_obstacle(tmp_path: Path, corpus: Path, tokenizer: Tokenizer) -> None:
    shutil.rmtree(corpus / "eval")
    for name, text in (("long", TEXT), ("short", "the fox")):
        write_rows(tmp_path / f"{name}.jsonl", [{"text": text, "source": name}])
    write_corpus(corpus / "eval", {name: str(tmp_path / f"{name}.jsonl") for name in ("long", "short")}, tokenizer)
    assert read_manifest(corpus / "eval").sources[1].tokens < 32
    train(configure(tmp_path, corpus, tokenizer, "steps=2"))
    last = read_jsonl(tmp_path / "base" / "metrics.jsonl")[-1]
    assert math.isfinite(last["eval/short/loss"]) and math.isfinite(last["eval/long/loss"])


@pytest.mark.parametrize("isolate", [False, True])
def test_bits_per_byte_are_those_of_every_predicted_token(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer, isolate: bool
) -> None:
    shutil.rmtree(corpus / "eval")
    texts = {"words": TEXT.split()[:60], "lines": TEXT.splitlines()[:3]}
    for name, documents in texts.items():
        write_rows(tmp_path / f"{name}.jsonl", [{"text": text, "source": name} for text in documents])
    write_corpus(corpus / "eval", {name: str(tmp_path / f"{name}.jsonl") for name in texts}, tokenizer)
    cfg = configure(tmp_path, corpus, tokenizer, "steps=2", f"isolate_documents={str(isolate).lower()}")
    train(cfg)
    last = read_jsonl(tmp_path / "base" / "metrics.jsonl")[-1]
    model = hf_folder.load_model(tmp_path / "base" / "final")
    sums = dict.fromkeys(texts, 0.0)
    for name, documents in texts.items():
        stream = [t for text in documents for t in (tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id)]
        for start in range(0, len(stream) - 1, 31):
            sequence = stream[start : start + 32]
            begins = [i for i, token in enumerate(sequence) if i == 0 or (isolate and token == tokenizer.bos_id)]
            for first, end in itertools.pairwise([*begins, len(sequence)]):
                piece = torch.tensor(sequence[first:end])
                with torch.no_grad():
                    logprobs = model(piece[None])[0].log_softmax(-1)
                sums[name] -= float(logprobs[:-1].gather(1, piece[1:, None]).sum()) / math.log(2)
    sizes = {name: sum(len(text.encode()) for text in documents) for name, documents in texts.items()}
    for name in texts:
        assert last[f"eval/{name}/bits_per_byte"] == pytest.approx(sums[name] / sizes[name], rel=1e-5)
    assert last["eval/bits_per_byte"] == pytest.approx(sum(sums.values()) / sum(sizes.values()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_compiled_it_learns_the_same(
    tmp_path: Path,
    corpus: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ("steps=4", "run.eval_every=2", "run.progress=true", "model.activation_checkpointing=selective")
    train(configure(tmp_path / "plain", corpus, tokenizer, *more))
    assert "compiled in" not in capsys.readouterr().err
    graphs: list[int] = []

    def counted(*arguments: Any) -> dict[str, float]:
        stats = torch._dynamo.utils.counters["stats"]
        graphs.append(stats["unique_graphs"])
        found = held_out_metrics(*arguments)
        graphs.append(stats["unique_graphs"])
        return found

    monkeypatch.setattr(program, "held_out_metrics", counted)
    train(configure(tmp_path / "compiled", corpus, tokenizer, *more, "compile=true"))
    assert len(graphs) == 4 and len(set(graphs)) == 1 and graphs[0] > 0  # evaluation compiles nothing
    assert re.search(r"compiled in \d+ s", capsys.readouterr().err)
    plain, compiled = (read_jsonl(tmp_path / name / "base" / "metrics.jsonl") for name in ("plain", "compiled"))
    for key in ("train/loss", "train/grad_norm", "eval/loss"):
        rows = [(one[key], other[key]) for one, other in zip(compiled, plain, strict=True) if key in other]
        assert len(rows) in (2, 4)
        assert [one for one, _ in rows] == pytest.approx([other for _, other in rows], abs=1e-4)
    with pytest.raises(UserError, match=r"compile=true: need zero\.stage of 2 or lower"):
        train(configure(tmp_path / "divided", corpus, tokenizer, *more, "compile=true", "zero.stage=3"))


def test_utilisation_where_the_peak_is_known(tmp_path: Path, corpus: Path, tokenizer: Tokenizer) -> None:
    train(configure(tmp_path, corpus, tokenizer, "steps=2", "peak_tflops=0.001"))
    last = read_jsonl(tmp_path / "base" / "metrics.jsonl")[-1]
    operations = 6 * configure(tmp_path, corpus, tokenizer).model.with_vocabulary(400).parameters
    assert last["train/mfu"] == pytest.approx(operations * last["train/tokens_per_second"] / 1e9)
    assert last["train/mfu_attention"] > last["train/mfu"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokens=1e6"], r"tokens=1000000\.0 and steps=30: need exactly one of them"),
        (["steps=null"], "tokens=None and steps=None: need exactly one of them"),
        (["steps=null", "tokens=100"], r"tokens=100\.0 steps=None: need at least one step"),
        (["batch_tokens=100"], "batch_tokens=100: need a multiple of seq_len=32"),
        (["peak_tflops=0"], r"peak_tflops=0\.0: need a number above 0"),
        (["run.keep=1", "spikes.enabled=true"], r"run\.keep=1: need 2 or more"),
        (["run.save_every=0", "spikes.enabled=true"], r"run\.save_every=0: need 1 or more"),
        (["spikes.min_steps=500"], r"spikes\.min_steps=500: need 2 to spikes\.window=128"),
        (["seq_len=4096"], "seq_len=4096: need 2 to model.max_seq_len=128"),
    ],
)
def test_mistakes_in_the_length_are_named(
    tmp_path: Path, corpus: Path, tokenizer: Tokenizer, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        configure(tmp_path, corpus, tokenizer, *overrides)


def test_what_does_not_fit_together_is_named(tmp_path: Path, corpus: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"model\.vocab_size=100: need 400 or more"):
        train(configure(tmp_path, corpus, tokenizer, "model.vocab_size=100"))
    with pytest.raises(UserError, match="micro_batch_size=0: need 1"):
        train(configure(tmp_path, corpus, tokenizer, "micro_batch_size=0"))
    with pytest.raises(MissingFileError, match="llamatrain corpus"):
        train(configure(tmp_path, tmp_path / "nowhere", tokenizer))
    manifest = corpus / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(tokenizer.fingerprint, "0" * 64))
    with pytest.raises(UserError, match="another tokenizer"):
        train(configure(tmp_path, corpus, tokenizer))
