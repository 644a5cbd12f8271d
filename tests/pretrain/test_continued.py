"""Continued pretraining: from a Llama folder on, with its shape and tokenizer, a fresh optimizer and its own schedule."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation.perplexity import perplexity
from llamatrain import checkpoint, manifest
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.errors import MissingFileError, UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from pretrain.__main__ import dry_run, train
from pretrain.config import PretrainConfig, TokenizerConfig
from pretrain.tokenizer import train_model
from tests.checkpoints import quiet, read_jsonl, save_checkpoint
from tests.conftest import TEXT
from tests.corpora import write_corpus

SCHEDULE = ["tokens=null", "steps=6", "batch_tokens=512", "optim.lr=1e-3", "optim.warmup_steps=2", "run.save_every=3"]


@pytest.fixture
def released(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """A Llama folder as others make them: no manifest, no lineage, bfloat16."""
    folder = save_checkpoint(tmp_path / "released", Transformer(model_config, seed=3), tokenizer)
    (folder / manifest.NAME).unlink()
    weights = {name: weight.bfloat16() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def configure(folder: Path, corpus: Path, released: Path, *more: str, name: str = "on") -> PretrainConfig:
    return compose(
        "pretrain",
        PretrainConfig,
        [*quiet(folder, name), f"checkpoint={released}", f"corpus={corpus}", *SCHEDULE, *more],
    )


def test_it_begins_at_the_checkpoints_held_out_loss_and_learns(
    tmp_path: Path, corpus: Path, released: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    train(configure(tmp_path, corpus, released))
    rows = read_jsonl(tmp_path / "on" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(7)]
    there = perplexity(released, corpus / "eval", 4, False, None, torch.float32)
    for measure, value in there.items():
        assert rows[0][f"eval/{measure}"] == pytest.approx(value, rel=1e-5)
    assert rows[6]["eval/loss"] < rows[0]["eval/loss"]
    assert [row["train/lr"] for row in rows[1:4]] == pytest.approx([5e-4, 1e-3, 8.68e-4], rel=1e-2)  # its own schedule
    made = checkpoint.resolve(tmp_path / "on" / "final")
    lineage = checkpoint.lineage(made)
    assert lineage["parents"] == {
        "checkpoint": {"path": str(released), "sha256": manifest.fingerprint(released)},
    }
    assert lineage["config"]["model"]["dim"] == model_config.dim  # what was trained, not what the preset said
    assert json.loads((made / "config.json").read_text())["num_key_value_heads"] == model_config.n_kv_heads
    assert Tokenizer(made).fingerprint == tokenizer.fingerprint


def test_a_resumed_run_ends_equal(tmp_path: Path, corpus: Path, released: Path) -> None:
    for name in ("whole", "cut"):
        train(configure(tmp_path, corpus, released, name=name))
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    shutil.rmtree(cut / "checkpoints" / "step_00000006")
    train(configure(tmp_path, corpus, released, name="cut"))
    for file in ("model.safetensors", "trainer/model/optimizer-00001-of-00001.safetensors"):
        assert (cut / "final" / file).read_bytes() == (whole / "final" / file).read_bytes()
    rows = read_jsonl(cut / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(7)]  # the start is measured once
    weights = load_file(released / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, released / "model.safetensors")
    manifest._hashes.cache_clear()  # as another process
    with pytest.raises(UserError, match=r"checkpoint=.*released is not what .*step_00000006 was trained from"):
        train(configure(tmp_path, corpus, released, name="cut"))
    fresh = [*quiet(tmp_path, "cut"), f"corpus={corpus}", f"tokenizer={released}", *SCHEDULE, "model=tiny"]
    with pytest.raises(UserError, match="checkpoint=null is not what"):
        train(compose("pretrain", PretrainConfig, fresh))


def test_the_plan_says_where_it_starts(tmp_path: Path, corpus: Path, released: Path, tokenizer: Tokenizer) -> None:
    train(configure(tmp_path, corpus, released, "steps=1"))
    assert f"start: the weights of {released}, with a fresh optimizer" in dry_run(
        configure(tmp_path, corpus, released), 2
    )
    again = dry_run(configure(tmp_path, corpus, tmp_path / "on"), None)
    assert "(pretrain, step 1), with a fresh optimizer" in again and "vocabulary 400" in again
    scratch = [*quiet(tmp_path, "x"), f"corpus={corpus}", f"tokenizer={tokenizer.path}", *SCHEDULE, "model=tiny"]
    assert "start: random weights" in dry_run(compose("pretrain", PretrainConfig, scratch), None)


def test_the_shape_is_the_checkpoints(tmp_path: Path, corpus: Path, released: Path, model_config: ModelConfig) -> None:
    given = configure(
        tmp_path, corpus, released, "model.n_layers=2", "model.hidden_dim=64", "model.activation_checkpointing=full"
    )
    assert (given.model.n_layers, given.model.activation_checkpointing) == (2, "full")
    assert given.seq_len == model_config.max_seq_len
    shape = configure(tmp_path, corpus, released, "preset=llama2_7b").model  # nobody gave the preset's
    assert (shape.dim, shape.activation_checkpointing) == (32, "none")
    for asked, message in (
        ("model=tiny", r"model\.dim=128: checkpoint=.* has 32, and its shape stays; need no model="),
        ("model.n_layers=3", r"model\.n_layers=3: checkpoint=.* has 2"),
        ("seq_len=256", r"seq_len=256: need 2 to model\.max_seq_len=128"),
        ("batch_tokens=100", "batch_tokens=100: need a multiple of seq_len=128"),
    ):
        with pytest.raises(UserError, match=message):
            configure(tmp_path, corpus, released, asked)


def test_layers_of_a_large_checkpoint_are_recomputed(tmp_path: Path, corpus: Path, model_config: ModelConfig) -> None:
    large = replace(model_config, dim=4096, n_layers=32, hidden_dim=11008)
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text(json.dumps(large.to_hf(scalar_head=False)))
    recomputed = [
        configure(tmp_path, corpus, tmp_path / "large", *more).model.activation_checkpointing
        for more in ([], ["preset=demo"], ["model.activation_checkpointing=selective"])
    ]
    assert recomputed == ["full", "full", "selective"]


def test_what_it_cannot_start_from_is_named(
    tmp_path: Path, corpus: Path, released: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    with pytest.raises(MissingFileError, match="nowhere does not exist; `llamatrain pretrain` makes it"):
        train(configure(tmp_path, corpus, tmp_path / "nowhere"))
    reward = save_checkpoint(tmp_path / "reward", ScalarModel(model_config, seed=0), tokenizer)
    with pytest.raises(UserError, match="reward is a reward model; need a language model"):
        configure(tmp_path, corpus, reward)
    with pytest.raises(UserError, match=r"tokenizer=null: need a tokenizer\.model or .* or checkpoint=FOLDER"):
        train(compose("pretrain", PretrainConfig, [*quiet(tmp_path, "x"), f"corpus={corpus}", *SCHEDULE, "model=tiny"]))


def test_a_corpus_of_another_tokenizer_is_refused_with_the_way_to_make_one(
    tmp_path: Path, released: Path, tokenizer: Tokenizer
) -> None:
    settings = compose("tokenizer", TokenizerConfig, ["run.name=x", "documents=[t]"])
    other = tmp_path / "other.model"
    other.write_bytes(train_model(TEXT.splitlines(), 380, settings.trainer))
    write_rows(tmp_path / "text.jsonl", [{"text": TEXT, "source": "test"}] * 4)
    write_corpus(tmp_path / "others" / "train", [str(tmp_path / "text.jsonl")], Tokenizer(other))
    with pytest.raises(UserError, match=r"another tokenizer .*llamatrain corpus tokenizer=.*released/tokenizer\.model"):
        train(configure(tmp_path, tmp_path / "others", released))
    with pytest.raises(UserError, match=r"tokenizer=.*other\.model is not the tokenizer in"):
        train(configure(tmp_path, tmp_path / "others", released, f"tokenizer={other}"))
