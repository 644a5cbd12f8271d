"""Starting under srun's variables, what a half-set environment is told, and programs that need no ranks and no torch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from llamatrain import distributed
from llamatrain.errors import LostRankError, UserError

CODE = """
from llamatrain import distributed
early = distributed.rank(), distributed.world_size()
distributed.setup()
assert early == (distributed.rank(), distributed.world_size())
print(distributed.gather_objects(distributed.rank()), distributed.all_reduce_sum(2.5), distributed.broadcast_object("main"))
distributed.leave()
"""


def start(repository: Path, code: str = CODE, **variables: str) -> subprocess.Popen[str]:
    environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=repository,
        env=environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.distributed
def test_sruns_variables(repository: Path) -> None:
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "SLURM_STEP_NUM_TASKS": "2"}
    tasks = [start(repository, **common, SLURM_PROCID=str(n), SLURM_LOCALID=str(n)) for n in range(2)]
    for task in tasks:
        out, err = task.communicate(timeout=120)
        assert out.strip() == "[0, 1] 5.0 main", err


@pytest.mark.parametrize(("told", "each"), [("4", "4"), ("8(x4)", "8"), ("8(x4),2", "8")])
def test_srun_tells_how_many_ranks_a_node_has(told: str, each: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "34", "MASTER_ADDR": "n1", "SLURM_STEP_TASKS_PER_NODE": told}
    monkeypatch.setattr(os, "environ", dict(given))
    distributed._read_launcher()
    assert os.environ["LOCAL_WORLD_SIZE"] == each


WRONG = {
    "RANK is set but WORLD_SIZE is not": {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    "WORLD_SIZE=2 is set but RANK is not": {"WORLD_SIZE": "2"},
    "WORLD_SIZE=0: need a whole number from 1 on": {"WORLD_SIZE": "0"},
    "WORLD_SIZE=two: need a whole number": {"WORLD_SIZE": "two"},
    "RANK=: need a whole number": {"RANK": "", "WORLD_SIZE": "2"},
    "RANK=2: need less than WORLD_SIZE=2": {"RANK": "2", "WORLD_SIZE": "2"},
    "MASTER_PORT=port: need a whole number": {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "port"},
}


@pytest.mark.parametrize(("message", "variables"), list(WRONG.items()))
def test_a_half_set_environment(message: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_joined", lambda: False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        distributed.setup()


@pytest.mark.distributed
def test_a_rank_that_never_comes_is_named_long_before_a_collective_ends(repository: Path) -> None:
    assert distributed.RENDEZVOUS <= timedelta(minutes=10) < distributed.TIMEOUT
    short = (
        "import datetime; from llamatrain import distributed; distributed.RENDEZVOUS = datetime.timedelta(seconds=1)"
    )
    meetings = [{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"} for _ in range(2)]
    alone = [start(repository, short + CODE, RANK=str(rank), **meetings[rank]) for rank in range(2)]
    for rank in range(2):
        _, err = alone[rank].communicate(timeout=120)
        assert f"LostRankError: rank {1 - rank} of 2 never arrived at MASTER_ADDR=127.0.0.1" in err


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_joined", lambda: False)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        for name, value in {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        with pytest.raises(UserError, match=r"rank 0 cannot be met at MASTER_ADDR=127\.0\.0\.1"):
            distributed._meet()
        monkeypatch.setenv("SLURM_PROCID", "0")  # a job's port, which nobody chose: it queues again
        with pytest.raises(LostRankError, match="has just taken the port"):
            distributed._meet()


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
