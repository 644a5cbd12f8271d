"""A pair is scored alike by our code, by transformers and by vLLM, all of which read the checkpoint as it lies.

vLLM needs an environment of its own: `LLAMATRAIN_VLLM_PYTHON` names its interpreter; without it that part is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llamatrain.data.rows import write_rows
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.responses.pairs import Pair, score_pairs
from llamatrain.tokenizer import Tokenizer
from reward.data import load_pairs
from tests.checkpoints import save_checkpoint

VLLM = "LLAMATRAIN_VLLM_PYTHON"
CLASSIFY = """
import json, sys
from vllm import LLM, PoolingParams
folder, file = sys.argv[1:]
model = LLM(folder, runner="pooling", convert="classify", dtype="float32", enforce_eager=True, kv_cache_memory_bytes=1 << 28)
prompts = [{"prompt_token_ids": ids} for ids in json.load(open(file))]
found = model.classify(prompts, pooling_params=PoolingParams(use_activation=False))
json.dump([one.outputs.probs[0] for one in found], open(file, "w"))
"""


@pytest.fixture
def pairs_of_any_length(tmp_path: Path, tokenizer: Tokenizer) -> list[Pair]:
    """Pairs with short and long prompts and answers."""
    text = "The red fox lives in the forest near the river and a whale is bigger than a cow."
    words = text.split()
    rows = [
        {
            "messages": [{"role": "user", "content": " ".join(words[: 1 + 3 * i])}],
            "chosen": " ".join(words[i : 3 * i + 2]),
            "rejected": " ".join(words[:1]) + "!" * i,
            "kind": "helpfulness",
        }
        for i in range(5)
    ]
    write_rows(tmp_path / "p.jsonl", rows)
    pairs, _ = load_pairs(str(tmp_path / "p.jsonl"), tokenizer, 128, "skip")
    return list(pairs)


@pytest.fixture
def checkpoint(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> tuple[ScalarModel, Path]:
    """A reward model, of heads as wide as vLLM's CPU kernels take them, and the folder it is saved in."""
    model = ScalarModel(replace(model_config, dim=64, n_heads=2, n_kv_heads=1), seed=3)
    return model, save_checkpoint(tmp_path / "rm", model, tokenizer)


def sides(pairs: list[Pair]) -> list[list[int]]:
    return [side.tolist() for pair in pairs for side in (pair.chosen, pair.rejected)]


def ours(model: ScalarModel, pairs: list[Pair]) -> torch.Tensor:
    return torch.tensor(score_pairs(model, pairs, 128, 2)).flatten()


@pytest.mark.parametrize("side", ["left", "right"])
def test_transformers_scores_ragged_batches_alike(
    side: str, checkpoint: tuple[ScalarModel, Path], pairs_of_any_length: list[Pair]
) -> None:
    model, folder = checkpoint
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    batch = tokenizer.pad({"input_ids": sides(pairs_of_any_length)}, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any()  # ragged
    with torch.no_grad():
        found = theirs(**batch).logits[:, 0]
    torch.testing.assert_close(found, ours(model, pairs_of_any_length), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(VLLM not in os.environ, reason=f"{VLLM} names no interpreter of an environment with vLLM")
def test_vllm_classifies_alike(
    tmp_path: Path, checkpoint: tuple[ScalarModel, Path], pairs_of_any_length: list[Pair]
) -> None:
    model, folder = checkpoint
    file = tmp_path / "sides.json"
    file.write_text(json.dumps(sides(pairs_of_any_length)))
    environ = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [os.environ[VLLM], "-c", CLASSIFY, str(folder), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    found = torch.tensor(json.loads(file.read_text()))
    torch.testing.assert_close(found, ours(model, pairs_of_any_length), atol=1e-5, rtol=1e-5)
