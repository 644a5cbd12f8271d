"""Pipelines and programs as jobs of a real Slurm: whole chains, and what happens to them at night."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.slurm.attempts import read_attempts
from llamatrain import manifest
from tests.checkpoints import read_jsonl

from .cluster import ROOT, Lab

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]

PRESET = "preset=tests/slurm/tiny.yaml"
ON_TWO_NODES = ("resources.pretrain.nodes=2", "resources.ppo.nodes=2")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def losses(run: Path) -> list[tuple[int, float]]:
    """Return every step's loss as it was logged, in the order of the file."""
    return [(row["step"], row["train/loss"]) for row in read_jsonl(run / "metrics.jsonl") if "train/loss" in row]


def weights(run: Path) -> bytes:
    return (run / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def chain(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny demo, submitted by one command and run to its end."""
    runs = tmp_path_factory.mktemp("runs")
    said = lab.llamatrain("slurm", "pipeline", PRESET, f"run.dir={runs}", *ON_TWO_NODES)
    assert "25 submitted; follow them with:" in said
    lab.until_empty()
    return runs / "tiny"


def test_the_whole_chain_runs_from_one_command(lab: Lab, chain: Path) -> None:
    stages = read(chain / "pipeline.json")["stages"]
    assert {name: read(chain / name / "status.json")["state"] for name in stages} == dict.fromkeys(stages, "done")
    assert read(chain / "pretrain/stage.json")["ranks"] == 2
    assert (chain / "jobs/pretrain/rank_0001.log").read_text().startswith("=== rank 1 of 2 on node2, job ")
    assert "25 done;" in lab.llamatrain("status", str(chain))  # the report among them
    assert "0 submitted" in lab.llamatrain("slurm", "pipeline", PRESET, f"run.dir={chain.parent}")
    assert (chain / "report.html").is_file()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("cluster.partition=mian", "cluster.partition=mian: no such partition; did you mean 'main'?"),
        ("cluster.constraint=a100", "sbatch refused: Batch job submission failed: Invalid feature specification"),
        ("resources.toyworld.gpus_per_node=8", "sbatch refused: Invalid generic resource (gres) specification"),
        ("cluster.exclude=node9", "sbatch refused: Batch job submission failed: Invalid node name specified"),
        ('cluster.sbatch=["--nonsense"]', "sbatch refused: unrecognized option '--nonsense'"),
    ],
)
def test_what_slurm_refuses_is_said_in_a_line(lab: Lab, tmp_path: Path, asked: str, message: str) -> None:
    given = ["toyworld", PRESET, f"run.dir={tmp_path}", "run.name=refused", asked]
    said = lab.llamatrain("slurm", *given, code=2 if "partition" in asked else 1)
    assert said.startswith(f"error: {message}") and len(said.splitlines()) == 1, said
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ([] if "partition" in asked else ["refused/jobs/job.sh"])
    assert not lab.ask("squeue", "--noheader", "--name=refused")


def test_the_reward_models_are_trained_side_by_side(chain: Path) -> None:
    spans = []
    for name in ("v1_reward_helpfulness", "v1_reward_safety"):
        spans.append(
            (read_attempts(chain / "jobs" / name)[0]["started"], read(chain / name / "status.json")["updated"])
        )
    assert max(start for start, _ in spans) < min(end for _, end in spans)


def test_two_ranks_on_two_nodes_have_the_losses_of_one_process(lab: Lab, chain: Path, tmp_path: Path) -> None:
    values = yaml.safe_load((chain / "pretrain/config.yaml").read_text())
    values["run"] |= {"dir": str(tmp_path), "name": "alone"}
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "pretrain", f"--config={tmp_path / 'alone.yaml'}"]
    subprocess.run(command, env=lab.environ, cwd=ROOT, check=True, capture_output=True)
    two, one = losses(chain / "pretrain"), losses(tmp_path / "alone")
    assert len(two) == values["steps"]
    assert two == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in one]


def test_preemption_a_killed_rank_and_a_hang_leave_no_trace(lab: Lab, chain: Path, tmp_path: Path) -> None:
    run = tmp_path / "night"
    given = [f"run.dir={tmp_path}", "run.name=night", f"corpus={chain / 'corpus'}", f"tokenizer={chain / 'tokenizer'}"]
    more = ["resources.pretrain.nodes=2", "run.hang_minutes=0.5", 'cluster.srun=["--wait=5"]']
    lab.llamatrain("slurm", "pretrain", PRESET, *given, *more)
    lab.until(lambda: _steps(run) > 20)
    # A job of a partition with a higher priority takes both nodes: ours is told to stop, saves, and waits for them.
    lab.ask("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    lab.until(lambda: len(_attempts(run)) > 1 and _steps(run) > 120)
    os.kill(_rank(run, 1), signal.SIGKILL)
    lab.until(lambda: len(_attempts(run)) > 2 and _steps(run) > 240)
    os.kill(_rank(run, 1), signal.SIGSTOP)
    lab.until(lambda: len(_attempts(run)) > 3)
    assert "error: hang: rank 1 (" in (run / "jobs/rank_0000.log").read_text()
    lab.until_empty()
    attempts = _attempts(run)
    assert [attempt["before"] for attempt in attempts] == [None, 75, 137, 137]  # the sleeper was killed in the end
    assert len({attempt["job"] for attempt in attempts}) == 1
    assert read(run / "status.json")["state"] == "done"
    assert losses(run) == losses(chain / "pretrain")  # neither gaps nor doubles
    assert weights(run) == weights(chain / "pretrain")
    assert "restarts" in lab.llamatrain("status", str(run))


@pytest.mark.slow
def test_starts_that_fail_before_the_ranks_do_queue_again(lab: Lab, chain: Path, tmp_path: Path) -> None:
    """A refusal of srun, a note that sleeps, a port that is taken: the third start trains all the same."""
    run, tools = tmp_path / "unlucky", tmp_path / "bin"
    tools.mkdir()
    once = f"[[ -e {tools}/refused ]] || {{ touch {tools}/refused; exit 1; }}"
    (tools / "srun").write_text(f'#!/bin/bash\n{once}\nexec {shutil.which("srun")} "$@"\n')
    (tools / "srun").chmod(0o755)
    listen = f"{sys.executable} -m http.server $((15000 + SLURM_JOB_ID % 15000)) >/dev/null 2>&1 &"
    given = [f"run.dir={tmp_path}", "run.name=unlucky", f"corpus={chain / 'corpus'}"]
    given += [f"tokenizer={chain / 'tokenizer'}", "resources.pretrain.nodes=2"]
    setup = f'cluster.setup=["export PATH={tools}:$PATH","{listen}"]'
    shown = lab.llamatrain("slurm", "pretrain", PRESET, *given, setup, "dry_run=true")
    script = tmp_path / "job.sh"
    script.write_text(shown[shown.index("#!/bin/bash") :].replace("--kill-after=60 600 ", "--kill-after=5 20 "))
    (run / "jobs").mkdir(parents=True)
    lab.ask("sbatch", str(script))
    lab.until(lambda: (tools / "refused").exists() and bool(_noting(run)))
    os.kill(_noting(run)[0], signal.SIGSTOP)
    lab.until_empty()
    log = (run / "jobs/job.log").read_text()
    assert re.findall(r"error: start (\d) could not be noted: code (\d+)", log) == [("0", "1"), ("1", "124")], log
    assert [attempt["restart"] for attempt in _attempts(run)] == [2]
    assert losses(run) == losses(chain / "pretrain")


def _noting(run: Path) -> list[int]:
    """Return the processes that note a start of a run's job."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[1:4] == [b"-m", b"launch", b"slurm.attempt"] and f"run_folder={run}".encode() in words:
                found.append(int(folder.name))
    return found


def test_a_job_that_gets_nowhere_gives_up_and_says_why(lab: Lab, chain: Path, tmp_path: Path) -> None:
    run = tmp_path / "nowhere"
    given = [
        f"run.dir={tmp_path}",
        "run.name=nowhere",
        f"corpus={chain / 'corpus'}",
        f"tokenizer={chain / 'tokenizer'}",
    ]
    more = ["resources.pretrain.nodes=2", "cluster.restarts=0", "run.save_every=0"]
    lab.llamatrain("slurm", "pretrain", PRESET, *given, *more)
    lab.until(lambda: _steps(run) > 0)
    os.kill(_rank(run, 1), signal.SIGKILL)
    lab.until_empty()
    status = read(run / "status.json")
    assert status["state"] == "failed" and status["reason"].startswith("no progress in 0 restarts; rank 0: ")
    assert "no progress in 0 restarts" in lab.llamatrain("status", str(run))
    assert "gave up after 0 restarts without progress" in (run / "jobs/job.log").read_text()


def _attempts(run: Path) -> list[Any]:
    return list(read_attempts(run / "jobs"))


def _steps(run: Path) -> int:
    """Return how many steps were logged, so far as they are on the disk."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _rank(run: Path, rank: int) -> int:
    """Return the process that trains as this rank; the nodes' processes are this machine's."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, environ = ((folder / name).read_bytes().split(b"\0") for name in ("cmdline", "environ"))
        except OSError:
            continue
        program = f"run.name={run.name}".encode() in command and b"launch" not in command
        if program and f"SLURM_PROCID={rank}".encode() in environ:
            return int(folder.name)
    raise AssertionError("no such process")


def test_the_chain_waits_for_ratings_and_goes_on_in_two_rounds(lab: Lab, chain: Path, tmp_path: Path) -> None:
    ratings, world = tmp_path / "ratings", chain / "world"
    ratings.mkdir()
    data = [f"data.checkpoint={chain / 'pretrain/final'}", f"data.ratings={ratings}"]
    data += [f"data.{role}={world}/{role}.jsonl" for role in ("dialogues", "prompts")]
    given = [
        PRESET,
        "data=mine",
        *data,
        f"run.dir={tmp_path}",
        "run.name=rounds",
        "rounds=2",
        "compare.max_prompts=24",  # all, so that some are held out in both rounds
        "ppo=false",
        "replay.sft=0",
    ]
    submit = ["slurm", "pipeline", *given, "until=v2_reward_safety"]
    for n, count in ((1, 2), (2, 6)):
        assert f"{count} submitted" in (said := lab.llamatrain(*submit)), said
        assert f"v{n}_preferences.jsonl" in said
        lab.until_empty()
        comparisons = tmp_path / "rounds" / f"v{n}_compare/comparisons.jsonl"
        _rate(comparisons, ratings / f"v{n}_preferences.jsonl")
    said = lab.llamatrain(*submit)
    lab.until_empty()
    assert read(tmp_path / "rounds/v2_reward_safety/status.json")["state"] == "done"
    assert len(manifest.published(tmp_path / "rounds/v2_reward_helpfulness/checkpoints")) > 0


def _rate(comparisons: Path, target: Path) -> None:
    """Write what people would: one response of each pair is better, under both headings."""
    rows = []
    for row in read_jsonl(comparisons):
        pair = {"messages": row["messages"], "chosen": row["response_a"] + ".", "rejected": row["response_b"]}
        rows += [json.dumps({**pair, "kind": kind, "rating": "better"}) for kind in ("helpfulness", "safety")]
    target.write_text("\n".join(rows) + "\n")


def test_a_failed_stage_cancels_what_needs_it_and_once_mended_the_chain_goes_on(
    lab: Lab, chain: Path, tmp_path: Path
) -> None:
    documents = tmp_path / "documents.jsonl"
    documents.write_bytes((chain / "world/documents.jsonl").read_bytes())
    own = [f"data.documents={documents}", f"data.dialogues={chain / 'world/dialogues.jsonl'}"]
    given = ["slurm", "pipeline", PRESET, "data=mine", *own, f"run.dir={tmp_path}", "run.name=broken"]
    given += ["until=corpus", "replay.sft=0"]
    lab.llamatrain(*given, "tokenizer.vocab_size=100000")
    lab.until_empty()
    said = lab.llamatrain("status", str(tmp_path / "broken"))
    assert "tokenizer failed" in said and "cancelled" in said
    assert "1 failed, 2 cancelled" in said
    said = lab.llamatrain(*given)
    assert "▶ tokenizer" in said and "▶ corpus" in said
    lab.until_empty()
    assert read(tmp_path / "broken/corpus/status.json")["state"] == "done"
