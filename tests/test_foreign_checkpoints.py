"""Models that transformers saved, with a tokenizer.model beside them and nothing of ours, work wherever a checkpoint is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from llamatrain import manifest
from llamatrain.tokenizer import Tokenizer
from tests.distributed.driver import Job, run
from tests.distributed.worlds import make_programs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def save_again(folder: Path) -> None:
    """Put what transformers makes of a checkpoint in its place: bfloat16, in several files, without a manifest."""
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, config.architectures[0])
    model = kind.from_pretrained(folder, dtype=torch.bfloat16)
    tokenizer = (folder / "tokenizer.model").read_bytes()
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "tokenizer.model").write_bytes(tokenizer)
    assert (folder / "model.safetensors.index.json").is_file() and not (folder / manifest.NAME).exists()


def test_every_program_takes_them(tmp_path: Path, tokenizer: Tokenizer, repository: Path) -> None:
    programs = make_programs(tmp_path, tokenizer)
    policy, helpfulness, safety = (tmp_path / "world" / name for name in ("policy", "helpfulness", "safety"))
    for folder in (policy, helpfulness, safety):
        save_again(folder)
    prompts, quiet = f"prompts={tmp_path}/world/prompts.jsonl", ["run.progress=false", "run.wandb.mode=disabled"]
    shape = ("model", "tokenizer=")  # which the checkpoint brings
    length = "sampling.max_new_tokens=8"
    programs["pretrain"] = [f"checkpoint={policy}", *(o for o in programs["pretrain"] if not o.startswith(shape))]
    programs |= {
        "sample": [
            *(*quiet, f"checkpoint={policy}", f"helpfulness={helpfulness}", f"safety={safety}", prompts, length)
        ],
        "compare": [*quiet, f"checkpoint_a={policy}", f"checkpoint_b={policy}", prompts, length],
        "evaluate": [*quiet, f"models={{base: {{checkpoint: {policy}}}}}", f"corpus={tmp_path}/corpus"],
        "reward.evaluate": [*quiet, f"checkpoint={helpfulness}", f"preferences=[{tmp_path}/pairs.jsonl]"],
    }
    jobs = {
        name: Job(name, str(tmp_path / "runs" / name), [*o, f"run.dir={tmp_path}/runs", f"run.name={name}"])
        for name, o in programs.items()
    }
    results = run([[job] for job in jobs.values()], repository)
    for name, (result,) in zip(jobs, results, strict=True):
        assert result.codes == [0], f"{name}\n{result.output}"
        assert result.status["state"] == "done", name
    lineage = json.loads((tmp_path / "runs/ppo/final/llamatrain.json").read_text())
    assert {key: parent["sha256"] for key, parent in lineage["parents"].items()} == {
        "checkpoint": manifest.fingerprint(policy),
        "helpfulness": manifest.fingerprint(helpfulness),
        "safety": manifest.fingerprint(safety),
    }
