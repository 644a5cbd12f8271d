"""Submits a program, or a pipeline with one job per stage, to Slurm.

    llamatrain slurm sft preset=llama2_7b run.name=chat checkpoint=runs/base/final train=d.jsonl cluster=a100_80g_infiniband
    llamatrain slurm pipeline preset=demo cluster=cpu dry_run=true
    llamatrain slurm pipeline preset=llama2_7b data=data.yaml cluster=my_cluster.yaml resources.ppo.nodes=4

A job that is warned of its time limit, preempted or loses a rank saves where it can and goes on by itself. The same
command submits what is not done and not queued. The scripts and one log per rank lie in the run folder, below jobs/.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from llamatrain.config import program
from llamatrain.config.options import asks
from llamatrain.errors import UserError
from llamatrain.exits import EXIT_FAILURE

from ..programs import NAME, with_keys
from .arguments import split
from .config import SlurmConfig
from .queue import ClusterError
from .submission import submit

# Keys of this program; all others are those of what it submits.
OWN = ("program", "cluster", "resources", "check_fit", "dry_run")


def main(argv: Sequence[str] | None = None) -> None:
    """Divide the command line and submit; exit code 2 for the user's mistake, 1 where the cluster refuses."""
    given = list(sys.argv[1:] if argv is None else argv)
    keyed = with_keys("slurm", given)
    wrong: Exception | None = None
    own, theirs = list[str](), list[str]()
    try:
        own, theirs = split(keyed, OWN, OWN)
    except (UserError, OSError) as error:  # said where a program's mistakes are
        wrong = error

    def task(cfg: SlurmConfig) -> None:
        if wrong is not None:
            raise wrong
        try:
            submit(cfg, cfg.program, theirs, f"{NAME} {shlex.join(['slurm', *given])}")
        except ClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(EXIT_FAILURE) from None

    asked = asks(given)
    program.main("slurm", SlurmConfig, task, keyed if asked else ["program=x"] if wrong else own)


if __name__ == "__main__":
    main()
