"""Checkpoint folders and quiet runs for the stages' tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from llamatrain import hf_tokenizer, manifest
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer


def save_checkpoint(folder: Path, model: Transformer | ScalarModel, tokenizer: Tokenizer) -> Path:
    """Write a model as a checkpoint folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(model.config.to_hf(scalar_head=isinstance(model, ScalarModel))))
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, folder / "model.safetensors")
    hf_tokenizer.save(tokenizer, folder)
    manifest.write(folder)
    return folder


def quiet(folder: Path, name: str) -> list[str]:
    """Return overrides for a run without output in `folder`."""
    return [f"run.dir={folder}", f"run.name={name}", "run.progress=false", "run.wandb.mode=disabled"]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return a file's objects."""
    return [json.loads(line) for line in path.read_text().splitlines()]
