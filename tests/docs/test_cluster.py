"""The script that docs/cluster.md explains is the one that is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from launch.programs import ROOT, command
from launch.slurm.config import Resources, SlurmConfig, need
from launch.slurm.script import Job, render
from llamatrain.config.compose import compose

HOME = Path("/shared/llm")
CLUSTER = ["program=pipeline", "cluster=a100_80g_infiniband", "cluster.partition=a100", "cluster.account=llm"]


def rendered() -> str:
    """Return the script of one stage, as an installed llamatrain writes it."""
    cluster = compose("slurm", SlurmConfig, CLUSTER).cluster
    runs, asked = HOME / "runs/llama2_7b", need(cluster, True, True, Resources(nodes=16, time="7-00:00:00"))
    job = Job(
        "llama2_7b/pretrain", runs / "jobs/pretrain", runs / "pretrain", HOME, ["stage", str(runs), "pretrain"], asked
    )
    text = render(job, cluster, "llamatrain slurm pipeline preset=llama2_7b data=my_data.yaml cluster=my_cluster.yaml")
    return re.sub(r"export PYTHONPATH=.*\n", "", text).replace(shlex.join(command("launch")), "llamatrain")


def test_the_script_on_the_page_is_the_one_that_is_written() -> None:
    (shown,) = re.findall(r"^```bash\n(#!/bin/bash.*?)^```", (ROOT / "docs/cluster.md").read_text(), re.M | re.S)
    assert shown == rendered()
