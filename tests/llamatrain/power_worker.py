"""A rank of four on one node whose processor counts 5 J while the run is open: started by test_power.py."""

from __future__ import annotations

import sys
from pathlib import Path

from llamatrain import distributed, power
from llamatrain.run import Run
from llamatrain.settings import RunConfig, WandbConfig


def main(folder: Path) -> None:
    """Open a run; the last rank, which is not the one that measures, moves the counter on."""
    power.POWERCAP = folder / "powercap"
    distributed.setup()
    wandb = WandbConfig("disabled", "test", None, None, [])
    config = RunConfig("run", str(folder), 0, "auto", 0, 0, 0, 1, False, False, "mkl", 0, False, wandb)
    with Run(config, "test", {}, data={}):
        distributed.barrier()
        if distributed.rank() == 3:
            (power.POWERCAP / "intel-rapl:0" / "energy_uj").write_text("6000000\n")
        distributed.barrier()
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
