"""Tiny checkpoints and prompts on disk for rlhf's tests."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from llamatrain import hf_tokenizer, manifest
from llamatrain.data.rows import write_rows
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import Rollout
from llamatrain.tokenizer import Tokenizer

QUESTIONS = ("Where does the fox live?", "How many apples?", "Please tell me a story", "Is a whale bigger?")


def save_checkpoint(folder: Path, model: nn.Module, tokenizer: Tokenizer) -> Path:
    """Write a model as a checkpoint folder."""
    assert isinstance(model, Transformer | ScalarModel)
    folder.mkdir(parents=True)
    hf = model.config.to_hf(scalar_head=isinstance(model, ScalarModel))
    (folder / "config.json").write_text(json.dumps(hf))
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, folder / "model.safetensors")
    hf_tokenizer.save(tokenizer, folder)
    manifest.write(folder)
    return folder


def make_world(folder: Path, config: ModelConfig, tokenizer: Tokenizer, prompts: int = 12) -> dict[str, str]:
    """Write a policy, two reward models, prompts and SFT dialogues; return overrides that name them."""
    policy = save_checkpoint(folder / "policy", Transformer(config, seed=1), tokenizer)
    helpfulness = save_checkpoint(folder / "helpfulness", ScalarModel(config, seed=2), tokenizer)
    safety = save_checkpoint(folder / "safety", ScalarModel(config, seed=3), tokenizer)
    rows = write_prompts(folder / "prompts.jsonl", prompts)
    answer = {"role": "assistant", "content": "The red fox lives in the forest."}
    write_rows(folder / "sft.jsonl", [{"messages": [*r["messages"], answer], "source": "sft"} for r in rows])
    return {
        "checkpoint": str(policy),
        "helpfulness": str(helpfulness),
        "safety": str(safety),
        "prompts": f"[{folder / 'prompts.jsonl'}]",
    }


def ending(
    world: dict[str, str], folder: Path, config: ModelConfig, tokenizer: Tokenizer, eagerness: float
) -> dict[str, str]:
    """Return a world whose policy likes EOS: at an eagerness of 3 responses end at once, at 1 anywhere."""
    policy = Transformer(config, seed=1)
    with torch.no_grad():
        policy.model.embed_tokens.weight[:, 0] = 3.0  # whatever was read
        policy.lm_head.weight[tokenizer.eos_id, 0] = eagerness
    return {**world, "checkpoint": str(save_checkpoint(folder / "ending", policy, tokenizer))}


def write_prompts(path: Path, count: int) -> list[dict[str, Any]]:
    """Write prompts, a third of them adversarial; return their rows."""
    rows: list[dict[str, Any]] = [
        {
            "id": f"p{i}",
            "messages": [{"role": "user", "content": f"{QUESTIONS[i % len(QUESTIONS)]} {i}"}],
            "source": "test",
            "is_adversarial": i % 3 == 0,
        }
        for i in range(count)
    ]
    write_rows(path, rows)
    return rows


def overrides(world: dict[str, str], folder: Path, name: str, *more: str) -> list[str]:
    """Return overrides for a quiet run in `folder`."""
    quiet = [f"run.dir={folder}", f"run.name={name}", "run.progress=false", "run.wandb.mode=disabled"]
    return [*quiet, *(f"{key}={value}" for key, value in world.items()), *more]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def random_rollouts(count: int, vocabulary: int = 400, seed: int = 0) -> list[Rollout]:
    """Return rollouts of random tokens and uneven lengths, every second one finished."""
    chance = random.Random(seed)
    rollouts = []
    for i in range(count):
        tokens = [chance.randrange(3, vocabulary) for _ in range(chance.randint(2, 12))]
        response = [chance.randrange(3, vocabulary) for _ in range(chance.randint(1, 20))] + [2] * (i % 2)
        prompt = Prompt(f"p{i}", [{"role": "user", "content": f"{i}"}], i % 3 == 0, "test", tokens)
        rollouts.append(Rollout(prompt, response, i % 2 == 1, [-1.0] * len(response), is_answer=i % 2 == 1))
    return rollouts
