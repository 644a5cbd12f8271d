"""A stage's key follows what can change its result, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.programs import schema_of
from launch.record import Record, fingerprint, make_record, read_record
from llamatrain import manifest
from llamatrain.errors import MissingFileError, UserError

CONFIG: dict[str, Any] = {
    "run": {"name": "a", "dir": "runs", "seed": 0, "save_every": 5, "wandb": {"mode": "offline"}},
    "zero": {"stage": 0, "dtype": "float32", "offload_optimizer": False},
    "optim": {"lr": 1e-3, "betas": [0.9, 0.95]},
    "model": {"dim": 8, "activation_checkpointing": "none"},
    "micro_batch_size": 8,
    "eval_sequences": 4,
    "batch_tokens": 8,
    "kind": "reward",
}


SCHEMA = schema_of("pretrain")


def record(config: dict[str, Any], folder: Path = Path("runs/x"), old: Record | None = None) -> Record:
    return make_record("pretrain", SCHEMA, config, folder, None, old)


def changed(key: str, value: Any) -> dict[str, Any]:
    """Return CONFIG with one (dotted) key changed."""
    content: dict[str, Any] = json.loads(json.dumps(CONFIG))
    *path, leaf = key.split(".")
    node = content
    for name in path:
        node = node[name]
    node[leaf] = value
    return content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run.name", "b"),
        ("run.dir", "/elsewhere"),
        ("run.save_every", 7),
        ("run.wandb.mode", "disabled"),
        ("zero.stage", 3),
        ("zero.offload_optimizer", True),
        ("model.activation_checkpointing", "full"),
        ("micro_batch_size", 1),
        ("eval_sequences", None),
    ],
)
def test_what_changes_no_result_leaves_the_key(key: str, value: Any) -> None:
    assert record(changed(key, value)).key == record(CONFIG).key
    assert record(changed(key, value)).changes(record(CONFIG), SCHEMA) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("run.seed", 1, "run.seed: 0 -> 1"),
        ("zero.dtype", "bfloat16", 'zero.dtype: "float32" -> "bfloat16"'),
        ("optim.lr", 2e-3, "optim.lr: 0.001 -> 0.002"),
        ("optim.betas", [0.9, 0.99], "optim.betas.1: 0.95 -> 0.99"),
        ("batch_tokens", 16, "batch_tokens: 8 -> 16"),
        ("new", 1, "new: (absent) -> 1"),
    ],
)
def test_what_changes_the_result_changes_the_key_and_is_said(key: str, value: Any, words: str) -> None:
    assert record(changed(key, value)).key != record(CONFIG).key
    assert record(changed(key, value)).changes(record(CONFIG), SCHEMA) == [words]


def test_a_word_is_no_file_even_where_a_folder_bears_its_name(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    assert record(CONFIG).inputs == {}


def test_parents_and_files_count_by_content(tmp_path: Path) -> None:
    parent = tmp_path / "a"
    parent.mkdir()
    (parent / "rows.jsonl").write_text("1")
    (tmp_path / "own.jsonl").write_text("2")
    config = {"train": ["@a/rows.jsonl@fold0/5", f"hh_rlhf:{tmp_path}/own.jsonl@without0/5"]}
    first = record(config, tmp_path)
    assert first.config == {"train.0": "@a/rows.jsonl@fold0/5", "train.1": "hh_rlhf:file@without0/5"}
    (parent / "rows.jsonl").write_text("changed")
    assert record(config, tmp_path, first).changes(first, SCHEMA) == ["@a/rows.jsonl changed"]
    with pytest.raises(MissingFileError, match="stage 'a' is not done, or does not write it"):
        record({"train": "@a/others.jsonl"}, tmp_path)


def test_a_run_folder_counts_without_its_bookkeeping(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("1")
    before = fingerprint(tmp_path, {})
    for name in ("status.json", "metrics.jsonl", "config.yaml", "stage.json"):
        (tmp_path / name).write_text("anything")
    assert fingerprint(tmp_path, {}) == before
    (tmp_path / "rows.jsonl").write_text("2")
    assert fingerprint(tmp_path, {}) != before


def test_a_checkpoint_counts_by_its_model_files(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.model", "llamatrain.json"):
        (tmp_path / name).write_text(name)
    manifest.write(tmp_path)
    before = fingerprint(tmp_path, {})
    (tmp_path / "llamatrain.json").write_text("another lineage")
    manifest.write(tmp_path)
    assert fingerprint(tmp_path, {}) == before
    (tmp_path / "model.safetensors").write_text("other weights")
    manifest.write(tmp_path)
    assert fingerprint(tmp_path, {}) != before


def test_unchanged_files_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.jsonl").write_text("2")
    first = record({"train": str(tmp_path / "own.jsonl")})
    monkeypatch.setattr(manifest, "sha256", lambda path: pytest.fail("hashed again"))
    assert record({"train": str(tmp_path / "own.jsonl")}, old=first).key == first.key


def test_records_come_back_from_disk(tmp_path: Path) -> None:
    record(CONFIG).write(tmp_path)
    assert read_record(tmp_path) == record(CONFIG)
    assert read_record(tmp_path / "nowhere") is None
    (tmp_path / "stage.json").write_text('{"program": "sft", "config": []}')
    with pytest.raises(UserError, match=r"stage\.json is damaged: inputs is missing; move its folder away"):
        read_record(tmp_path)


def test_a_record_of_when_more_was_thought_to_change_the_result_still_holds() -> None:
    schema = schema_of("sft")
    now = make_record("sft", schema, {"epochs": 2}, Path("runs/x"), None)
    old = replace(now, config={"epochs": 2.0, "eval.0": "@rate/eval.jsonl"}, inputs={"@rate/eval.jsonl": "hash"})
    assert now.changes(old, schema) == []
    old.config["train.0"] = old.config.pop("eval.0")
    assert now.changes(old, schema) == ['train.0: "@rate/eval.jsonl" -> (absent)']
