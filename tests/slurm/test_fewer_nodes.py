"""A job that is content with fewer nodes, on a real Slurm: what the ranks are, where they are, and when there are more again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch.slurm.config import Need, SlurmConfig
from launch.slurm.script import Job, render
from llamatrain.config.compose import compose

from .cluster import Lab

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(600)]

# In the place of llamatrain: rank 0 takes a node away, or gives it back, and asks for a restart.
RANK = """\
cd {folder}
echo "$SLURM_RESTART_COUNT: $SLURM_PROCID of $SLURM_STEP_NUM_TASKS on $(hostname)" >>ranks
if ((SLURM_PROCID == 0)); then
    sleep 1
    case "$SLURM_RESTART_COUNT" in
        "") scontrol update NodeName=node2 State=DRAIN Reason=test ;;
        1) scontrol update NodeName=node2 State=RESUME ;;
    esac
fi
((SLURM_RESTART_COUNT == 2)) || exit 75
"""


def test_a_job_goes_on_with_the_nodes_that_there_are(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "rank.sh").write_text(RANK.format(folder=tmp_path))
    cluster = compose("slurm", SlurmConfig, ["program=sft", "cluster=cpu"]).cluster
    need = Need(2, 2, 0, 2, None, "10:00", None, min_nodes=1)
    job = Job("fewer", tmp_path / "jobs", tmp_path, tmp_path, ["sft"], need)
    text = re.sub(r"rank \\\n .*&", rf"rank \\\n    bash {tmp_path}/rank.sh &", render(job, cluster, ""))
    job.folder.mkdir()
    job.script.write_text(text)
    lab.ask("sbatch", str(job.script))
    lab.until_empty()
    ranks = (tmp_path / "ranks").read_text().splitlines()
    on_both = [f"{rank} of 4 on node{1 + rank // 2}" for rank in range(4)]
    on_one = [f"{rank} of 2 on node1" for rank in range(2)]
    expected = [f"{start}: {one}" for start, all in (("", on_both), ("1", on_one), ("2", on_both)) for one in all]
    assert sorted(ranks) == sorted(expected), (job.folder / "job.log").read_text()
