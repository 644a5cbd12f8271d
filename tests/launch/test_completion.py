"""The shell completes programs, keys, groups and their choices; a real bash is asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.completion import SCRIPTS, candidates
from launch.programs import PROGRAMS, ROOT


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("llamatrain pipel", ["pipeline "]),
        ("llamatrain help rejection", ["rejection_sampling "]),
        ("llamatrain sft opt", ["optim=", "optim."]),
        ("llamatrain sft optim.warm", ["optim.warmup_steps=", "optim.warmup_fraction="]),
        ("llamatrain sft a=1 zero=st", ["zero=stage0 ", "zero=stage1 ", "zero=stage2 ", "zero=stage3 "]),
        ("llamatrain ppo optim@critic_optim=cr", ["optim@critic_optim=critic "]),
        ("llamatrain sft too_long=", ["too_long=skip ", "too_long=stop ", "too_long=drop_turns "]),
        ("llamatrain sft run.resume=n", ["run.resume=never "]),
        ("llamatrain pretrain spikes.enabled=", ["spikes.enabled=true ", "spikes.enabled=false "]),
        ("llamatrain clean rem", ["remove="]),
        ("llamatrain clean remove=", ["remove=true ", "remove=false "]),
        ("llamatrain sft preset=llama2_7", ["preset=llama2_7b ", "preset=llama2_70b "]),
        ("llamatrain pretrain ra", ["ranks="]),
        ("llamatrain corpus ra", []),
        ("llamatrain sft --d", ["--dry-run ", "--dry-run="]),
        ("llamatrain pipeline reward.ev", ["reward.eval=", "reward.evaluate."]),
        ("llamatrain pipeline reward.evaluate.pre", ["reward.evaluate.preferences="]),
        ("llamatrain pipeline sft.zero=stage2", ["sft.zero=stage2 "]),
        ("llamatrain pipeline data.doc", ["data.documents=", "data.documents_eval="]),
        (
            "llamatrain pipeline preset=demo v1_re",
            ["v1_reward_helpfulness.", "v1_reward_safety.", "v1_rejection_sampling."],
        ),
        ("llamatrain pipeline preset=demo v2_compare", []),
        ("llamatrain pipeline preset=demo rounds=2 v2_compare", ["v2_compare."]),
        ("llamatrain pipeline preset=demo ppo=false pp", ["ppo=", "ppo."]),
        ("llamatrain pipeline preset=demo v1_reward_safety.zero=stage3", ["v1_reward_safety.zero=stage3 "]),
        ("llamatrain pipeline preset=demo until=sample_s", ["until=sample_sft "]),
        ("llamatrain pipeline preset=demo rerun=[sft,pp", ["rerun=[sft,ppo"]),
        ("llamatrain pipeline preset=llama2_7b rerun=v1_c", ["rerun=v1_compare "]),
        ("llamatrain pipeline preset=llama2_7b data.documents=[a,b] rerun=v1_c", []),
        ("llamatrain pipeline preset=demo data.preferences=x rounds=[ rerun=v1", []),  # wrong
        ("llamatrain stage ", ["pipeline=", "stage=", "rerun=", "confirm_minutes=", "preset="]),
        ("llamatrain sft train=", []),  # files
        ("llamatrain chat runs/", []),
        ("llamatrain nosuch x", []),
        ("llamatrain", []),
    ],
)
def test_candidates(line: str, found: list[str]) -> None:
    assert sorted(candidates(line)) == sorted(found)


def test_a_stage_is_one_of_the_planned_pipelines(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text('{"stages": {"sft": {}, "v1_reward_safety": {}}}')
    assert candidates(f"llamatrain stage {tmp_path} ")[:2] == ["sft ", "v1_reward_safety "]
    assert candidates(f"llamatrain stage {tmp_path} v1") == ["v1_reward_safety "]
    assert candidates(f"llamatrain stage {tmp_path}/none v1") == []


def test_every_program_completes() -> None:
    assert [one.strip() for one in candidates("llamatrain ")] == list(PROGRAMS)
    for name in PROGRAMS:
        assert "preset=" in candidates(f"llamatrain {name} ")


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """Surroundings in which `llamatrain` is found."""
    script = tmp_path / "bin" / "llamatrain"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec '{sys.executable}' -P -m launch \"$@\"\n")
    script.chmod(0o755)
    return {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_in_a_real_bash(on_path: dict[str, str], tmp_path: Path) -> None:
    asked = [
        "llamatrain sft zero=stage2",
        "llamatrain pipeline sft.opt",
        "llamatrain pipeline preset=demo rerun=[sft,v1_c",
        "llamatrain sft train=docs/",
    ]
    ask = """
        set -eu
        source <(llamatrain completion bash)
        complete -p llamatrain
        for line in "$@"; do
            COMP_LINE="$line" COMP_POINT=${#line} COMP_WORDS=(llamatrain) COMPREPLY=(none)
            _llamatrain
            echo "${#COMPREPLY[@]}:${COMPREPLY[*]}"
        done
    """
    done = subprocess.run(
        ["bash", "-c", ask, "bash", *asked], capture_output=True, text=True, env=on_path, cwd=tmp_path, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "complete -o default -o nospace -F _llamatrain llamatrain",
        "1:stage2 ",  # what stands before the equals sign is typed already
        "2:sft.optim= sft.optim.",
        "1:[sft,v1_compare",
        "0:",  # bash's own names of files
    ]


@pytest.mark.parametrize("shell", [shell for shell in SCRIPTS if shutil.which(shell)])
def test_the_scripts_can_be_read_by_their_shells(shell: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(SCRIPTS[shell])
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True, timeout=60)


def test_a_word_from_the_shell_imports_nothing_heavy_and_another_shell_is_refused() -> None:
    code = (
        "import sys; from launch import cli\n"
        "try: cli.main(['completion', '--line', 'llamatrain sft zero=stage3'])\n"
        "finally: print(sorted({'torch', 'hydra', 'rich', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=60)
    assert (done.stdout, done.stderr.strip()) == ("zero=stage3 \n", "[]")
    command = [sys.executable, "-m", "launch", "completion", "tcsh"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60)
    assert done.returncode == 2 and "shell=tcsh: need one of bash, zsh, fish" in done.stderr
