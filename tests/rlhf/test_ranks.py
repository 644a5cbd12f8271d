"""Two ranks give what one gives, at every ZeRO stage and two micro-batch sizes, with whole and sharded models to read, though responses differ in length."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llamatrain import hf_folder
from llamatrain.data.rows import write_rows
from llamatrain.model.config import ModelConfig
from llamatrain.tokenizer import Tokenizer
from tests.corpora import write_corpus

from .worker import run_all
from .worlds import ending, read_jsonl, write_prompts

STAGES = ("0", "1", "2", "3", "3s")


@pytest.mark.distributed
@pytest.mark.slow
def test_two_ranks_give_what_one_gives(
    world: dict[str, str], tmp_path: Path, repository: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    world = ending(world, tmp_path, model_config, tokenizer, eagerness=0.7)
    write_prompts(tmp_path / "all.jsonl", 17)
    (tmp_path / "held_out.jsonl").write_text("".join((tmp_path / "all.jsonl").open().readlines()[12:]))
    write_rows(tmp_path / "text.jsonl", [{"text": "The red fox lives near the river. " * 60, "source": "test"}])
    write_corpus(tmp_path / "corpus" / "train", [str(tmp_path / "text.jsonl")], tokenizer)
    world |= {"replay": str(tmp_path / "corpus"), "prompts_eval": f"[{tmp_path / 'held_out.jsonl'}]"}
    one, two = tmp_path / "one", tmp_path / "two"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.rlhf.worker"]
    command = [sys.executable, *launcher, json.dumps(world), str(two), ",".join(STAGES)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    run_all(world, one, ["0"])

    for file in ("compare/comparisons.jsonl", "rejection_sampling/best.jsonl"):
        for a, b in zip(read_jsonl(one / file), read_jsonl(two / file), strict=True):
            assert a.pop("combined", 0.0) == pytest.approx(b.pop("combined", 0.0), abs=2e-6)
            assert a == b
    runs = [(f"{kind}0", f"{kind}{stage}") for kind in ("ppo", "uneven", "settings") for stage in STAGES]
    for name, other in (("rejection_sampling",) * 2, *runs):
        first, second = (dict(hf_folder.load_weights((p / "final").resolve())) for p in (one / name, two / other))
        for key in first:
            assert torch.allclose(first[key], second[key], atol=1e-5), (other, key)
    for name, other in runs:
        first, second = (read_jsonl(p / "metrics.jsonl") for p in (one / name, two / other))
        assert [row["step"] for row in first] == [row["step"] for row in second]
        for a, b in zip(first, second, strict=True):
            assert a.keys() == b.keys()
            assert a.get("ppo/response_length_max", 20) > 1.5 * a.get("ppo/response_length", 0)
            for key in a.keys() - {"time"}:
                if "seconds" not in key:
                    assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4), (other, key)
    # Whether the models that are only read are whole or sharded changes nothing.
    for kind in ("ppo", "uneven"):
        first, second = (dict(hf_folder.load_weights((two / f"{kind}{s}" / "final").resolve())) for s in ("3", "3s"))
        for key in first:
            assert torch.allclose(first[key], second[key], rtol=0, atol=1e-6), (kind, key)
    for stage in STAGES:
        first, second = (read_jsonl(p / "incidents.jsonl") for p in (one / "flagged0", two / f"flagged{stage}"))
        for a, b in zip(first, second, strict=True):
            assert a.pop("value") == pytest.approx(b.pop("value"), rel=1e-3)
            assert a | {"time": 0} == b | {"time": 0}
        assert [row["rolled_back"] for row in first] == [True, False]
