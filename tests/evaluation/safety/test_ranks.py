"""The same answers and verdicts on two ranks, after an interruption, and from the store of results."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.safety.__main__ import safety_benchmark
from evaluation.safety.config import SafetyBenchmarkConfig
from launch.programs import ROOT
from llamatrain.config.compose import compose
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.responses.answers import Answerer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import quiet, save_checkpoint

SMALL = ["sampling.max_new_tokens=4", "chunk_responses=2", "generation_batch_size=4", "classify_batch_size=2"]


@pytest.fixture
def own(tmp_path: Path, root: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> list[str]:
    """Overrides for a tiny model."""
    config = replace(model_config, max_seq_len=1024)
    checkpoint = save_checkpoint(tmp_path / "model", Transformer(config, seed=1), tokenizer)
    judges = ["classifiers.truth=overlap", "classifiers.info=committed", f"classifiers.toxicity={root}/toxic.txt"]
    return [f"checkpoint={checkpoint}", f"root={root}", *judges, *SMALL]


def run(folder: Path, name: str, own: list[str]) -> bytes:
    safety_benchmark(compose("safety_benchmark", SafetyBenchmarkConfig, [*quiet(folder, name), *own]))
    return (folder / name / "judged.jsonl").read_bytes()


def test_an_interrupted_run_goes_on(tmp_path: Path, own: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(tmp_path, "whole", [*own, f"results={tmp_path}/one"])
    original, calls = Answerer.answer, []

    def dies(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(Answerer, "answer", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "again", [*own, f"results={tmp_path}/two"])
    assert not (tmp_path / "again" / "judged.jsonl").exists()
    assert run(tmp_path, "again", [*own, f"results={tmp_path}/two"]) == whole
    assert len(calls) == 3 + 5  # of seven chunks two were kept
    assert run(tmp_path, "third", [*own, f"results={tmp_path}/two"]) == whole
    assert len(calls) == 8  # another run reads the store


@pytest.mark.distributed
@pytest.mark.slow
def test_two_ranks_find_the_same(tmp_path: Path, own: list[str]) -> None:
    one = run(tmp_path, "one", [*own, f"results={tmp_path}/one"])
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        environ.pop(name, None)
    arguments = ["safety_benchmark", "ranks=2", *quiet(tmp_path, "two"), *own, f"results={tmp_path}/two"]
    done = subprocess.run([sys.executable, "-m", "launch", *arguments], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "judged.jsonl").read_bytes() == one
    result = "safety_benchmark.json"
    assert (tmp_path / "two" / result).read_text() == (tmp_path / "one" / result).read_text()
