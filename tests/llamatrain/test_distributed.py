"""Starting under srun's variables, what a half-set environment is told, and programs that need no ranks and no torch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from llamatrain import distributed
early = distributed.rank(), distributed.world_size()
distributed.setup()
assert early == (distributed.rank(), distributed.world_size())
print(distributed.gather_objects(distributed.rank()), distributed.all_reduce_sum(2.5), distributed.broadcast_object("main"))
distributed.shutdown()
"""


def start(repository: Path, **variables: str) -> subprocess.Popen[str]:
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    return subprocess.Popen(
        [sys.executable, "-c", CODE],
        cwd=repository,
        env=environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.distributed
def test_sruns_variables(repository: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SLURM_STEP_NUM_TASKS": "2"}
    tasks = [start(repository, **common, SLURM_PROCID=str(n), SLURM_LOCALID=str(n)) for n in range(2)]
    for task in tasks:
        out, err = task.communicate(timeout=120)
        assert out.strip() == "[0, 1] 5.0 main", err


def test_a_half_set_environment(repository: Path) -> None:
    _, err = start(repository, RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="").communicate(timeout=60)
    assert "RANK is set but WORLD_SIZE is not" in err


def test_programs_of_files_alone_import_no_torch(repository: Path, tmp_path: Path) -> None:
    small = [
        "documents_mb=0.01",
        "dialogues=10",
        "prompts=30",
        "prompts_eval=10",
        f"run.dir={tmp_path}",
        "run.name=world",
    ]
    code = f"""
import runpy, sys
import pretrain.corpus.contamination, pretrain.corpus.__main__, pretrain.tokenizer, toyworld.judge, toyworld.rate
sys.argv = {["toyworld", *small, "run.wandb.mode=disabled"]}
try:
    runpy.run_module("toyworld", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
assert "torch" not in sys.modules
"""
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "world" / "documents.jsonl").is_file()
