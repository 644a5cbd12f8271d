"""Write the tables of docs/planning.md: what pretraining at the paper's sizes takes of A100s, and GPU hours beside the paper's.

python benchmarks/planning.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launch.estimate.chain import work_of  # noqa: E402
from launch.estimate.fit import advice  # noqa: E402
from launch.slurm.config import SlurmConfig  # noqa: E402
from llamatrain.config.compose import compose  # noqa: E402
from llamatrain.flops import flops_per_token  # noqa: E402
from llamatrain.hardware import MFU, NODE, Machine  # noqa: E402
from llamatrain.pace import pace  # noqa: E402

PAGE = ROOT / "docs" / "planning.md"
START, END = "<!-- made by: python benchmarks/planning.py -->", "<!-- end -->"
PAPER = {"7b": 184_320, "13b": 368_640, "34b": 1_038_336, "70b": 1_720_320}  # GPU hours (2.2.1, table 2)
GPUS = (8, 64, 256, 1024)
PEAK, TOKENS = 312e12, 2.0e12


def tables() -> str:
    """Return both tables as Markdown."""
    hardware = compose("slurm", SlurmConfig, ["program=pretrain"]).cluster.hardware
    lines = [
        "| preset | GPUs | per GPU | of it models | micro-batch | step | network | days | fits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in PAPER:
        work = work_of("pretrain", [f"preset=llama2_{size}"])
        for gpus in GPUS:
            machine = Machine(hardware, gpus // NODE, NODE, gpus=True)
            ((_, held, _),) = work.phases(machine)
            took = pace(work, machine)
            fast, slow = (seconds / 86400 for seconds in took.seconds)
            fits = "yes" if work.fits(machine) else f"no; {advice(work, machine, NODE)}"
            models = held.states.device + held.gathered + held.buckets
            lines.append(
                f"| llama2_{size} | {gpus:,} | {held.total / 1e9:,.1f} GB | {models / 1e9:,.1f} GB | "
                f"{work.size(machine)} | {took.step[0]:,.1f} to {took.step[1]:,.1f} s | {took.network:.2f} s | "
                f"{fast:,.0f} to {slow:,.0f} | {fits} |"
            )
    lines += [
        "",
        "| preset | the plan's GPU hours on 1,024 | without recomputation | the paper's | the share of the peak that these imply |",
        "|---|---|---|---|---|",
    ]
    for size, hours in PAPER.items():
        work = work_of("pretrain", [f"preset=llama2_{size}"])
        model, machine = work.model, Machine(hardware, GPUS[-1] // NODE, NODE, gpus=True)
        least, most = (seconds / 3600 * machine.ranks for seconds in pace(work, machine).seconds)
        whole = TOKENS * flops_per_token(model.parameters, model, model.max_seq_len, attention=False) / PEAK / 3600
        slow, fast = (whole / share for share in MFU)
        lines.append(
            f"| llama2_{size} | {least:,.0f} to {most:,.0f} | {fast:,.0f} to {slow:,.0f} | {hours:,} | {whole / hours:.1%} |"
        )
    return "\n".join(lines)


def page() -> str:
    """Return the page with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    return f"{before}{START}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
