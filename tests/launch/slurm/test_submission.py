"""What is submitted, after what, and what is refused: with a Slurm of shell scripts (tests/slurm has a real one)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from launch import programs
from launch.slurm import queue
from llamatrain.lock import Lock

from ..conftest import Start
from .conftest import Submit, asked

Capture = pytest.CaptureFixture[str]
PIPELINE = ("pipeline", "preset=trio", "run.dir=runs")


def dependencies(cluster: Path) -> list[str]:
    """Return what each submitted job is to run after."""
    found = []
    for line in asked(cluster):
        held = [word for word in line.split() if word.startswith("--dependency=")]
        found.append(held[0].removeprefix("--dependency=afterok:") if held else "")
    return found


def test_every_stage_is_a_job_after_its_parents(submit: Submit, cluster: Path, capsys: Capture) -> None:
    assert submit(*PIPELINE, "third.number=7", "cluster.account=llm") == 0
    assert dependencies(cluster) == ["", "101", "102", "101:102:103"]  # the last writes the report
    assert asked(cluster)[1].count("--kill-on-invalid-dep=yes") == 1
    script = Path("runs/trio/jobs/third/job.sh").read_text()
    assert "#SBATCH --account=llm\n" in script and f"stage {Path.cwd()}/runs/trio third" in script
    assert json.loads(Path("runs/trio/plan.json").read_text())["stages"][2]["values"]["number"] == 7
    assert json.loads(Path("runs/trio/jobs/jobs.json").read_text())["second"]["after"] == ["101"]
    assert json.loads(Path("runs/trio/pipeline.json").read_text())["command"][1:3] == ["slurm", "pipeline"]
    said = capsys.readouterr().out
    assert "third   job 103" in said and "4 submitted" in said
    report = Path("runs/trio/jobs/report/job.sh").read_text()
    assert f" report {Path.cwd()}/runs/trio &" in report and "report  job 104  1 node x " in said


def test_what_is_done_gets_no_job(start: Start, submit: Submit, cluster: Path, capsys: Capture) -> None:
    assert start("until=first") == 0
    assert submit(*PIPELINE, "until=second") == 0
    assert dependencies(cluster) == ["", "101"]
    assert "first   done" in capsys.readouterr().out


def test_what_is_queued_is_named_and_not_submitted_again(submit: Submit, cluster: Path, capsys: Capture) -> None:
    assert submit(*PIPELINE, "until=second") == 0
    capsys.readouterr()
    assert submit(*PIPELINE) == 0
    assert dependencies(cluster) == ["", "101", "101:102", "102", "101:102:104"]  # a report that waits for all
    said = capsys.readouterr().out
    assert "first   job 101 is queued already (pending, Dependency)" in said and "2 submitted" in said
    assert submit(*PIPELINE) == 0
    assert "0 submitted" in capsys.readouterr().out
    assert submit(*PIPELINE, "second.number=9") == 2
    message = "are queued with other settings: wait for them, choose another run.name, or `scancel"
    assert message in capsys.readouterr().err


def test_the_queue_alone_tells_what_is_queued(submit: Submit, cluster: Path) -> None:
    assert submit(*PIPELINE) == 0
    Path("runs/trio/jobs/jobs.json").unlink()
    assert submit(*PIPELINE) == 0
    assert len(asked(cluster)) == 4


def test_resources_of_a_stage_count_more_than_those_of_its_program(submit: Submit, cluster: Path) -> None:
    given = ("resources.fake.time=02:00:00", "resources.second.time=03:00:00", "resources.second.memory=9G")
    assert submit(*PIPELINE, *given) == 0
    scripts = [Path(f"runs/trio/jobs/{name}/job.sh").read_text() for name in ("first", "second")]
    assert "--time=02:00:00" in scripts[0] and "--mem" not in scripts[0]
    assert "--time=03:00:00" in scripts[1] and "--mem=9G" in scripts[1]


def test_a_preset_may_say_what_stages_need(submit: Submit, cluster: Path) -> None:
    (Path("configs/preset/trio.yaml")).write_text(
        "slurm: [cluster=cpu, resources.third.time=05:00:00]\nfake: [number=3]"
    )
    assert submit(*PIPELINE, "cluster.time=06:00:00") == 0
    assert "--time=05:00:00" in Path("runs/trio/jobs/third/job.sh").read_text()
    assert "--time=06:00:00" in Path("runs/trio/jobs/first/job.sh").read_text()


def test_a_cluster_file_of_ones_own(submit: Submit, cluster: Path, capsys: Capture) -> None:
    lines = [
        "like: cpu",
        "account: it's",
        'time: "09:00:00"',
        "modules: [cuda/12.4]",
        "environment: {HF_HOME: /data/hf}",
    ]
    Path("mine.yaml").write_text("\n".join(lines))
    assert submit(*PIPELINE, "cluster=mine.yaml") == 2
    assert 'cluster.account="it\'s": need a name as sbatch takes it' in capsys.readouterr().err
    Path("mine.yaml").write_text("\n".join(line for line in lines if "it's" not in line))
    assert submit(*PIPELINE, "cluster=mine.yaml") == 0
    script = Path("runs/trio/jobs/first/job.sh").read_text()
    assert (
        "module load cuda/12.4 || exit 2\n" in script
        and "export HF_HOME=/data/hf\n" in script
        and "--time=09:00:00" in script
    )
    Path("mine.yaml").write_text("like: cpu\npartitoin: main")
    assert submit(*PIPELINE, "cluster=mine.yaml") == 2
    assert "the nearest is 'cluster.partition'" in capsys.readouterr().err


def test_a_dry_run_shows_the_scripts_and_touches_nothing(submit: Submit, capsys: Capture) -> None:
    assert submit(*PIPELINE, "dry_run=true", "cluster.partition=nowhere") == 0  # without sbatch, too
    assert submit(*PIPELINE, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.count("#SBATCH --job-name=trio/") == 8
    assert shown.rpartition("#")[2].count("▶") == 4  # a line per job comes last, where it is seen
    assert submit("fake", "run.name=alone", "dry_run=true") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "▶ fake  1 node x 8 CPUs, 1 rank, 24:00:00"
    for what in (PIPELINE, ["fake", "run.name=alone"]):
        assert submit(*what, "dry_run=true", "cluster.shared=/somewhere") == 2
        assert "does not lie below cluster.shared=/somewhere" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_one_program_is_one_job(submit: Submit, cluster: Path, capsys: Capture) -> None:
    given = ("fake", "run.name=alone", "text=one", "cluster=cpu")
    assert submit(*given) == 0
    assert " -m launch fake run.name=alone text=one &\n" in Path("runs/alone/jobs/job.sh").read_text()
    assert submit(*given) == 0
    assert asked(cluster) == [f"sbatch --parsable {Path.cwd()}/runs/alone/jobs/job.sh"]
    assert "fake  job 101 is queued already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*PIPELINE, "cluster.partition=mian"], "cluster.partition=mian: no such partition; did you mean 'main'?"),
        ([*PIPELINE, "resources.third.partition=x"], "resources.third.partition=x: no such partition"),
        (
            [*PIPELINE, "resources.thrid.nodes=2"],
            "resources.thrid: there is no such stage or program here; did you mean",
        ),
        ([*PIPELINE, "resources.sft.nodes=2"], "resources.sft: there is no such stage or program here"),
        ([*PIPELINE, "resources.third.nods=2"], "resources.third.nods"),
        ([*PIPELINE, "resources.third.min_nodes=2"], "resources of third: min_nodes=2: need no more than its nodes, 1"),
        ([*PIPELINE, "resources.third.nodes=2"], "fake does not share its work among ranks; need one"),
        ([*PIPELINE, "cluster=nowhere"], "cluster=nowhere: no such choice; there are a100_40g_infiniband"),
        ([*PIPELINE, "cluster=nowhere.yaml"], "cluster=nowhere.yaml: there is no such file"),
        ([*PIPELINE, "cluster.nodes=0"], "cluster.nodes=0: need 1 or more"),
        ([*PIPELINE, "cluster.time=90"], 'cluster.time=90: need "hours:minutes:seconds"'),
        ([*PIPELINE, "cluster.time=00:04:00"], "cluster.warning_seconds=300: need less than the 240 s"),
        ([*PIPELINE, "cluster.memory=lots"], "cluster.memory=lots: need a size such as 900G"),
        ([*PIPELINE, "cluster.container.kind=docker"], "need one of none, apptainer, pyxis"),
        ([*PIPELINE, "cluster.container.kind=pyxis"], "need cluster.container.image"),
        ([*PIPELINE, "cluster.shared=/somewhere"], "does not lie below cluster.shared=/somewhere"),
        ([*PIPELINE, "ranks=2"], "ranks=2: in Slurm the ranks follow from cluster.nodes"),
        ([*PIPELINE, "second.number=-1"], "stage 'second': number=-1: need 0 or more"),
        ([*PIPELINE, "second.numbr=1"], "the nearest is 'number'"),
        (["pipeline", "run.dir=runs"], "which pipeline? Need preset=<name>"),
        (["fkae"], "program=fkae: need pipeline or one of"),
        (["runs"], "program=runs: need pipeline or one of"),
        ([], "need a value for program"),
        (["fake", "run.name=alone", "run.resume=never"], "run.resume=never: a job that is restarted would start"),
        (["fake", "run.name=alone", "input=nowhere"], "input: nowhere"),
    ],
)
def test_a_mistake_is_said_in_a_line_and_submits_nothing(
    submit: Submit, cluster: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert submit(*arguments) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert not asked(cluster) and not Path("runs").exists()


def test_what_the_cluster_refuses_leaves_nothing_queued(submit: Submit, cluster: Path, capsys: Capture) -> None:
    (cluster / "refuse_103").write_text("sbatch: error: Batch job submission failed: Job violates accounting policy\n")
    assert submit(*PIPELINE) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: third: sbatch refused: Batch job submission failed: Job violates accounting policy;")
    assert len(said.splitlines()) == 1 and f"its script is {Path.cwd()}/runs/trio/jobs/third/job.sh" in said
    assert asked(cluster)[-1] == "scancel 101 102"
    (cluster / "queue").unlink()  # where they were cancelled
    (cluster / "refuse_103").unlink()
    assert not list(Path("runs").glob("**/.lock"))
    assert submit(*PIPELINE) == 0  # the same command, once Slurm takes it
    assert dependencies(cluster)[-4:] == ["", "103", "104", "103:104:105"]


def test_a_refused_program_leaves_its_script_alone(submit: Submit, cluster: Path, capsys: Capture) -> None:
    given = ("fake", "run.name=alone", "text=one")
    refusals = ["sbatch: error: Invalid account", "sbatch: error: Batch job submission failed: Unspecified error"]
    (cluster / "refuse_101").write_text("\n".join(refusals))
    assert submit(*given) == 1
    script = Path.cwd() / "runs/alone/jobs/job.sh"
    told = "Invalid account; Batch job submission failed: Unspecified error"
    assert capsys.readouterr().err == f"error: sbatch refused: {told}; its script is {script}\n"
    assert [path for path in Path("runs").rglob("*") if path.is_file()] == [script.relative_to(Path.cwd())]
    (cluster / "refuse_101").unlink()
    assert submit(*given) == 0


@pytest.mark.parametrize("missing", ["sbatch", "squeue", "scancel"])
def test_without_a_command_of_slurms_only_a_dry_run_works(
    submit: Submit, cluster: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    (cluster / "bin" / missing).unlink()
    monkeypatch.setenv("PATH", str(cluster / "bin"))
    for what in (PIPELINE, ["fake", "run.name=alone"]):
        assert submit(*what) == 2
        said = capsys.readouterr().err
        assert f"error: {missing} is not on the PATH: need a login node of a Slurm cluster" in said
        assert len(said.splitlines()) == 1
        assert submit(*what, "dry_run=true") == 0
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["squeue", "sbatch"])
def test_a_controller_that_does_not_answer_is_said(
    submit: Submit, cluster: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.3)
    (cluster / "bin" / command).write_text("#!/bin/bash\nexec sleep 60\n")
    assert submit("fake", "run.name=alone") == 1
    assert f"error: {command} gave no answer within 0.3 s" in capsys.readouterr().err
    assert not list(Path("runs").glob("**/.lock")) and (command == "sbatch" or not Path("runs").exists())


@pytest.mark.parametrize(
    ("folder", "made", "reason"),
    [
        ("/sys", "", "Operation not permitted|Permission denied|Read-only file system"),  # nobody may write there
        ("runs", "runs", "Not a directory"),
        ("runs", "runs/trio/jobs", "Not a directory|File exists"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named(
    submit: Submit, cluster: Path, capsys: Capture, folder: str, made: str, reason: str
) -> None:
    if made:
        Path(made).parent.mkdir(parents=True, exist_ok=True)
        Path(made).write_text("a file")
    for what in ((*PIPELINE, f"run.dir={folder}"), ("fake", "run.name=trio", f"run.dir={folder}")):
        assert submit(*what) == 2
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1 and f"{folder}/trio" in said and re.search(reason, said), said
    assert not asked(cluster) and not [
        path for path in Path("runs").rglob("*") if path.is_file() and path != Path(made)
    ]


def test_a_pipeline_that_runs_here_is_not_submitted(submit: Submit, cluster: Path, capsys: Capture) -> None:
    Path("runs/trio").mkdir(parents=True)
    with Lock(Path("runs/trio")):
        assert submit(*PIPELINE) == 2
    assert "is running in runs/trio" in capsys.readouterr().err and not asked(cluster)


def test_the_program_is_described(submit: Submit, capsys: Capture) -> None:
    assert programs.PROGRAMS["slurm"].positional == ("program",)
    assert submit("--help") == 0
    said = capsys.readouterr().out
    assert "cluster.warning_seconds=300" in said and "a100_80g_roce" in said
