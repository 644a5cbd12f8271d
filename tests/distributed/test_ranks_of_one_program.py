"""`llamatrain sft ranks=2`: one program on several processes, stopped by a signal and gone on with as `runs` says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.found import runs_in, scan
from launch.programs import ROOT
from llamatrain.data.rows import write_rows
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import quiet, read_jsonl, save_checkpoint

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def start(*arguments: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)


def test_signals_exit_codes_and_the_command_that_goes_on(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    base = save_checkpoint(tmp_path / "base", Transformer(model_config, seed=0), tokenizer)
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In the forest near the river."}]
    write_rows(tmp_path / "dialogues.jsonl", [{"messages": turns, "source": "test"}] * 40)
    about = [f"checkpoint={base}", f"train={tmp_path}/dialogues.jsonl", "batch_sequences=2", "max_length=64"]
    about += [f"eval=[{tmp_path}/dialogues.jsonl]", "samples_every=2", "samples_kept=1", "sampling.max_new_tokens=4"]
    run = [*quiet(tmp_path, "chat"), *about, "epochs=12", "run.save_every=5"]
    metrics = tmp_path / "chat" / "metrics.jsonl"
    job = start("sft", "ranks=2", *run)
    while job.poll() is None and not (metrics.is_file() and len(metrics.read_text().splitlines()) > 3):
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=120)
    assert job.returncode == 75, said
    assert "Traceback" not in said
    (found,) = (one for one in runs_in(scan(tmp_path)) if one.path.name == "chat")
    assert (found.state, found.next[-1]) == ("stopped", "ranks=2")
    assert found.total is not None and 0 < (found.step or 0) < found.total
    job = start(*found.next)
    _, said = job.communicate(timeout=240)
    assert job.returncode == 0, said
    status = json.loads((tmp_path / "chat" / "status.json").read_text())
    assert (status["state"], status["step"], status["ranks"]) == ("done", found.total, 2)
    assert [row["step"] for row in read_jsonl(metrics)] == [*range(1, found.total + 1)]
    due = [step for step in range(1, found.total + 1) if step % 2 == 0 or step == found.total]
    assert [row["step"] for row in read_jsonl(metrics.with_name("samples.jsonl"))] == due
    wrong = start("sft", "ranks=2", *quiet(tmp_path, "other"), *about, "epochs=-1")
    _, said = wrong.communicate(timeout=120)
    assert wrong.returncode == 2 and said.count("error: ") == 1
