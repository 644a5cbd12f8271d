"""The script that docs/cluster.md explains is the one that is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from launch.programs import ROOT, command
from launch.slurm.__main__ import OWN, split
from launch.slurm.config import SlurmConfig, asked_of, need
from launch.slurm.script import Job, render
from llamatrain.config.compose import compose

HOME = Path("/shared/llm")
PAGE = (ROOT / "docs/cluster.md").read_text()


def block(language: str, begin: str) -> str:
    """Return the page's block that begins so."""
    (found,) = re.findall(rf"^```{language}\n({begin}.*?)^```", PAGE, re.M | re.S)
    return str(found)


def rendered(folder: Path) -> str:
    """Return pretraining's script by the page's file and command."""
    file = folder / "my_cluster.yaml"
    file.write_text(block("yaml", "like: "))
    command_line = block("", "llamatrain slurm pipeline preset=llama2_7b ").strip()
    given = shlex.split(command_line.replace("my_cluster.yaml", str(file)))[2:]
    own, _ = split(["program=pipeline", *given[1:]], OWN, OWN)
    asked = compose("slurm", SlurmConfig, own)
    resources = asked_of(asked.resources, "pretrain", "pretrain")
    runs, needs = HOME / "runs/llama2_7b", need(asked.cluster, True, True, resources)
    job = Job(
        "llama2_7b/pretrain", runs / "jobs/pretrain", runs / "pretrain", HOME, ["stage", str(runs), "pretrain"], needs
    )
    text = render(job, asked.cluster, command_line)
    return re.sub(r"export PYTHONPATH=.*\n", "", text).replace(shlex.join(command("launch")), "llamatrain")


def test_the_script_on_the_page_is_the_one_that_is_written(tmp_path: Path) -> None:
    assert block("bash", "#!/bin/bash") == rendered(tmp_path)
