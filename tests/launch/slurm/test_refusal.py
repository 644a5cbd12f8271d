"""Jobs that could only run out of memory are not submitted, unless told; a dry run says so, too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from launch.slurm import __main__ as slurm

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # without a Slurm: only a dry run or a refusal comes that far


def submit(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["slurm", *arguments])
    with pytest.raises(SystemExit) as end:
        slurm.main(list(arguments))
    return int(end.value.code or 0)


def test_what_cannot_fit_is_refused_unless_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    large = ("pipeline", "preset=llama2_70b", "cluster.nodes=1", "dry_run=true", "until=pretrain")
    assert submit(monkeypatch, *large) == 2
    said = capsys.readouterr()
    assert "#SBATCH" in said.out, "a dry run shows the scripts, then what does not fit"
    assert "check_fit=false to submit them all the same" in said.err
    needs = "pretrain does not fit 8 A100: training needs 167.7 GB per GPU, of its 85 GB 68 can be used; "
    assert f"{needs}it would fit with zero.offload_optimizer=true" in said.err
    assert submit(monkeypatch, *large, "check_fit=false") == 0
    assert "pretrain does not fit 8 A100" in capsys.readouterr().out
    assert submit(monkeypatch, *large, "resources.pretrain.nodes=8") == 0
    assert not Path("runs").exists()


def test_whole_models_of_70b_are_not_submitted_to_sample(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert submit(monkeypatch, "pipeline", "preset=llama2_70b", "dry_run=true") == 2
    said = capsys.readouterr().err
    for name in ("ppo", "v1_rejection_sampling", "v1_compare", "sample_base, sample_sft, sample_rs_v1, sample_ppo"):
        assert f"  {name} do" in said
    assert "need GPUs of 519 GB or a smaller model" in said


@pytest.mark.parametrize(
    ("cluster", "memory", "lacks", "helps"),
    [
        (
            "single_node",
            "1G",
            "needs 40 GB of host memory per node, a job may use 1",
            "cluster.memory=38G, or resources",
        ),
        ("cpu", "10M", "of its 0 GB 0 can be used", "cluster.memory=1G, or resources.NAME.memory"),
    ],
)
def test_a_job_with_too_little_of_a_nodes_memory_is_told_how_much_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, cluster: str, memory: str, lacks: str, helps: str
) -> None:
    given = ["pipeline", "preset=demo", f"cluster={cluster}", "dry_run=true", "until=pretrain"]
    assert submit(monkeypatch, *given, f"cluster.memory={memory}") == 2
    said = capsys.readouterr().err
    assert lacks in said and f"it would fit with {helps}" in said
    enough = helps.split(",")[0]
    assert submit(monkeypatch, *given, enough) == 0
