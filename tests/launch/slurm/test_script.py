"""The batch script: what it asks Slurm for, and what it does on every way in which its ranks can end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from launch.slurm import script as templates
from launch.slurm.attempts import EXIT_GAVE_UP
from launch.slurm.config import Cluster, Container, Need, Resources, SlurmConfig, need
from launch.slurm.script import Job, render, seconds_of
from llamatrain.config.compose import compose
from llamatrain.config.meanings import choices_of
from llamatrain.errors import UserError

NEED = Need(2, 8, 8, 12, "900G", "24:00:00", "gpu")


def cluster(choice: str = "single_node", *overrides: str) -> Cluster:
    return compose("slurm", SlurmConfig, ["program=sft", f"cluster={choice}", *overrides]).cluster


def job(folder: Path, asked: Need = NEED) -> Job:
    return Job("demo/ppo", folder / "jobs/ppo", folder / "ppo", folder, ["stage", str(folder), "ppo"], asked)


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_every_choice_of_cluster_gives_a_script_that_bash_reads(tmp_path: Path) -> None:
    assert len(choices_of("cluster")) == 6
    for choice in choices_of("cluster"):
        text = render(job(tmp_path), cluster(choice), "llamatrain slurm ...")
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
        assert done.returncode == 0 and not done.stderr, f"{choice}: {done.stderr}"
        assert "{{" not in text and "{%" not in text


def test_what_slurm_is_asked_for(tmp_path: Path) -> None:
    more = [
        "cluster.account=llm",
        "cluster.constraint=a|b",
        "cluster.gpu_type=a100",
        'cluster.sbatch=["--mail-type=FAIL"]',
    ]
    text = render(job(tmp_path / "a b"), cluster("a100_80g_roce", *more), "llamatrain slurm ...")
    assert directives(text) == [
        "--job-name=demo/ppo",
        f'--comment="{tmp_path}/a b/ppo"',
        "--partition=gpu",
        "--account=llm",
        "--constraint=a|b",
        "--nodes=2 --ntasks-per-node=8 --cpus-per-task=12",
        "--gpus-per-node=a100:8",
        "--mem=900G",
        "--exclusive",
        "--time=24:00:00",
        "--signal=B:USR1@300",
        "--requeue --open-mode=append",
        f'--chdir="{tmp_path}/a b"',
        f'--output="{tmp_path}/a b/jobs/ppo/job.log"',
        "--mail-type=FAIL",
    ]
    assert 'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)' in text
    assert "srun --ntasks=16 --cpus-per-task=12 --wait=30" in text and "export NCCL_IB_GID_INDEX=3\n" in text


def test_containers(tmp_path: Path) -> None:
    inside = ["cluster.container.image=/images/llamatrain.sif", "cluster.container.mounts=[/data]"]
    text = render(job(tmp_path), cluster("single_node", "cluster.container.kind=apptainer", *inside), "")
    mounts = f"--bind {tmp_path} --bind {tmp_path}/jobs/ppo --bind /data"
    assert (
        f"apptainer exec --nv {mounts} --pwd {tmp_path} /images/llamatrain.sif llamatrain stage {tmp_path} ppo &"
        in text
    )
    text = render(job(tmp_path), cluster("single_node", "cluster.container.kind=pyxis", *inside), "")
    assert text.count("--container-image=/images/llamatrain.sif --container-mounts=") == 2  # the attempt, and the ranks
    assert "PYTHONPATH" not in text


@pytest.mark.parametrize(
    ("parallel", "model", "asked", "expected"),
    [
        (True, True, {}, Need(2, 8, 8, 12, "900G", "24:00:00", "gpu")),
        (False, True, {}, Need(1, 1, 1, 12, "900G", "24:00:00", "gpu")),
        (False, False, {}, Need(1, 1, 0, 8, None, "24:00:00", "cpu")),
        (True, True, {"nodes": 4, "time": "01:00:00"}, Need(4, 8, 8, 12, "900G", "01:00:00", "gpu")),
        (True, True, {"gpus_per_node": 4}, Need(2, 4, 4, 12, "900G", "24:00:00", "gpu")),
        (True, True, {"gpus_per_node": 0}, Need(2, 1, 0, 8, None, "24:00:00", "cpu")),
        (True, True, {"ranks_per_node": 2}, Need(2, 2, 8, 12, "900G", "24:00:00", "gpu")),
    ],
)
def test_what_a_program_needs(parallel: bool, model: bool, asked: dict[str, Any], expected: Need) -> None:
    own = ["cluster.partition=gpu", "cluster.cpu_partition=cpu"]
    assert need(cluster("a100_40g_infiniband", *own), parallel, model, Resources(**asked)) == expected


def test_on_cpus_alone_all_is_of_one_kind() -> None:
    assert need(cluster("cpu", "cluster.nodes=2"), True, True, Resources()) == Need(2, 1, 0, 4, None, "04:00:00", None)


def test_a_job_may_be_content_with_fewer_nodes(tmp_path: Path) -> None:
    on_cpus = cluster("cpu", "cluster.nodes=4", "cluster.min_nodes=2", "cluster.ranks_per_node=3")
    found = need(on_cpus, True, True, Resources())
    assert str(found) == "2 to 4 nodes x 12 CPUs, 6 to 12 ranks, 04:00:00" and found.at_least.ranks == 6
    text = render(job(tmp_path, found), on_cpus, "")
    assert "--nodes=2-4 --mincpus=12" in directives(text)
    assert "srun --ntasks=$((SLURM_JOB_NUM_NODES * 3)) --ntasks-per-node=3 --cpus-per-task=4 " in text
    # A job that has no more than these anyway waits for all of its own.
    for asked in (Resources(nodes=2), Resources(nodes=1), Resources(nodes=4, min_nodes=4)):
        assert need(on_cpus, True, True, asked).min_nodes is None
    assert need(on_cpus, False, True, Resources()).min_nodes is None


def test_time_limits_are_read_as_slurm_reads_them() -> None:
    assert [seconds_of(time) for time in ("01:00:00", "2-03:00", "2-00:00:05", "10:00")] == [3600, 183600, 172805, 600]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("++cluster.environment.a-b=1", "need the name of an environment variable"),
        ('cluster.setup=["a\nb"]', "need a line each"),
        ("cluster.sbatch=[mail]", "need options such as --reservation=NAME"),
        ("cluster.scratch='/a\"b'", "need a folder without quotes"),
    ],
)
def test_what_would_break_the_script_is_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cluster("single_node", override)


# --- what it does ------------------------------------------------------------------------------------------------

Script = Callable[..., tuple[int, list[str]]]

SRUN = """\
case "$*" in
*slurm.attempt*) [[ {attempt} != sleeps ]] || exec sleep 60; exit {attempt} ;;
esac
echo "$MASTER_PORT" >{port}
[[ {code} != refused ]] || exit 1
for word in "$@"; do
    case "$word" in --output=*) log=${{word#--output=}} ;; esac
    shift
    [[ $word == append ]] || [[ $word == --open-mode=append ]] && break
done
trap 'echo told; exit 75' USR1
log="${{log/\\%4t/0000}}"
SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 "$@" >>"$log" &
until [[ -s $log ]]; do sleep 0.01; done
for i in $(seq {tenths}); do sleep 0.1; done
exit {code}
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Run the script with a fake srun that ends as it is told; return the exit code and what scontrol was asked to change."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "jobs/ppo").mkdir(parents=True)

    def run(
        code: int | str,
        tenths: int = 0,
        attempt: int | str = 0,
        state: str = "RUNNING",
        send: int = 0,
        restart: int = 0,
    ) -> tuple[int, list[str]]:
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        control = f'case "$2" in hostnames) echo node1 ;; job) echo JobState={state} Reason=None ;; *) echo "$*" >>{asked} ;; esac'
        srun = SRUN.format(attempt=attempt, tenths=tenths, code=code, port=tmp_path / "port")
        for name, body in (("srun", srun), ("scontrol", control)):
            (folder / name).write_text(f"#!/bin/bash\n{body}\n")
            (folder / name).chmod(0o755)
        for name in ("cat", "sort", "paste"):  # being queued again ends what a job is just running
            (folder / name).write_text(f'#!/bin/bash\n! grep -qs requeue {asked} && exec {shutil.which(name)} "$@"\n')
            (folder / name).chmod(0o755)
        log = tmp_path / "jobs/ppo/rank_0000.log"
        log.unlink(missing_ok=True)
        path = tmp_path / "job.sh"
        path.write_text(render(job(tmp_path, Need(1, 2, 0, 1, None, "01:00:00", None)), cluster("cpu"), ""))
        environ = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        environ |= {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
        process = subprocess.Popen(["bash", str(path)], env={**environ, "SLURM_JOB_NODELIST": "node1"}, cwd=tmp_path)
        if send:
            while not log.exists():
                time.sleep(0.02)
            process.send_signal(signal.SIGCONT)
            process.send_signal(send)
        ended = process.wait(timeout=120)
        return ended, asked.read_text().splitlines() if asked.exists() else []

    return run


def test_only_what_was_saved_or_killed_goes_on_in_the_same_job(script: Script, tmp_path: Path) -> None:
    for code, goes_on in ((0, False), (1, False), (2, False), (3, False), (75, True), (134, True), (137, True)):
        assert script(code) == (code, ["requeue 7"] if goes_on else []), code
        assert (tmp_path / "jobs/ppo/exit_code").read_text() == f"7 {code}\n"
    assert script(75, state="CANCELLED") == (75, [])  # scancel: nobody wants it back


def test_bad_nodes_are_left_out_from_then_on(script: Script, tmp_path: Path) -> None:
    (tmp_path / "ppo").mkdir()
    for node, nodes in (("node7", "node7"), ("node3", "node3,node7")):
        (tmp_path / "ppo/bad_nodes.txt").write_text(f"{node}\n")
        assert script(76) == (76, ["requeue 7", f"update JobId=7 ExcNodeList={nodes}"])


def test_signals_reach_the_ranks_and_their_code_counts(script: Script) -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM):
        assert script(0, tenths=300, send=number) == (75, ["requeue 7"])


def test_a_job_that_gets_nowhere_starts_no_ranks(script: Script, tmp_path: Path) -> None:
    for attempt, code in ((EXIT_GAVE_UP, 1), (2, 2)):
        assert script(0, attempt=attempt) == (code, [])
    assert not (tmp_path / "jobs/ppo/rank_0000.log").exists()


def test_a_start_that_cannot_be_noted_queues_again_so_many_times(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unnoted = tmp_path / "jobs/ppo/unnoted"
    monkeypatch.setattr(templates, "TO_NOTE", 1)
    for restart, attempt in enumerate((1, 137, "sleeps", 1)):  # srun's own failure, a killed process, one that sleeps
        assert script(0, attempt=attempt, restart=restart) == (1, ["requeue 7"] if restart < 3 else []), restart
        assert len(unnoted.read_text().splitlines()) == restart + 1
    assert script(0, restart=4) == (0, []) and not unnoted.exists()  # what it counts stands in a row
    assert script(0, attempt=1, state="CANCELLED") == (1, [])
    assert script(0, attempt=1) == (1, ["requeue 7"]) and len(unnoted.read_text().splitlines()) == 1  # sent anew


def test_ranks_that_srun_could_not_start_queue_again(script: Script, tmp_path: Path) -> None:
    assert script("refused") == (1, ["requeue 7"])  # as often as its attempts are noted: that bounds it
    assert not (tmp_path / "jobs/ppo/rank_0000.log").exists()


def test_the_ranks_meet_at_the_first_port_that_nobody_has(script: Script, tmp_path: Path) -> None:
    taken = []
    for port in (15007, 15008):  # of job 7, and the next
        taken.append(socket.socket())
        with suppress(OSError):  # somebody else has it already
            taken[-1].bind(("127.0.0.1", port))
            taken[-1].listen()
    script(0)
    for one in taken:
        one.close()
    assert 15008 < int((tmp_path / "port").read_text()) < 16000


def test_a_ranks_log_begins_with_who_it_is(script: Script, tmp_path: Path) -> None:
    script(0, tenths=20)
    head = (tmp_path / "jobs/ppo/rank_0000.log").read_text().splitlines()[0]
    assert head.startswith("=== rank 0 of 2 on ") and "job 7, restart 0" in head


def test_the_container_is_checked() -> None:
    with pytest.raises(UserError, match=r"need cluster\.container\.kind"):
        Container("none", "image.sif", [])


def test_nothing_that_is_typed_becomes_a_line_of_its_own(tmp_path: Path) -> None:
    assert "\necho b" not in render(job(tmp_path), cluster(), "llamatrain slurm sft text='a\necho b'")
    with pytest.raises(UserError, match="found a line break"):
        render(job(tmp_path / "a\nb"), cluster(), "")
