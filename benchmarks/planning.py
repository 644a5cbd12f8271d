"""Write the tables of docs/planning.md: what pretraining at the paper's sizes takes of A100s, and GPU hours beside the paper's.

python benchmarks/planning.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from launch.estimate import advice, model_of, work_of  # noqa: E402
from llamatrain.capacity import USED  # noqa: E402
from llamatrain.planning import UTILISATION, gpu_hours  # noqa: E402

PAGE = ROOT / "docs" / "planning.md"
START, END = "<!-- made by: python benchmarks/planning.py -->", "<!-- end -->"
PAPER = {"7b": 184_320, "13b": 368_640, "34b": 1_038_336, "70b": 1_720_320}  # GPU hours (2.2.1, table 2)
GPUS = (8, 64, 256, 1024)
MEMORY, PEAK, TOKENS = 85e9, 312.0, 2.0e12


def tables() -> str:
    """Return both tables as Markdown."""
    lines = ["| preset | GPUs | per GPU | of it models | micro-batch | days | fits |", "|---|---|---|---|---|---|---|"]
    for size in PAPER:
        for gpus in GPUS:
            work = work_of("pretrain", f"llama2_{size}", model_of(f"llama2_{size}"))
            ((_, held, _),) = work.phases(USED * MEMORY, gpus)
            rows = round(held.activations / work.model.max_seq_len / per_token(work))
            slow, fast = (gpu_hours(work, PEAK, share) / gpus / 24 for share in UTILISATION)  # type: ignore[operator]
            fits = "yes" if work.fits(MEMORY, gpus) else f"no; {advice(work, MEMORY, gpus, 8)}"
            models = held.states.device + held.gathered + held.buckets
            lines.append(
                f"| llama2_{size} | {gpus:,} | {held.total / 1e9:,.1f} GB | {models / 1e9:,.1f} GB | {rows} | "
                f"{fast:,.0f} to {slow:,.0f} | {fits} |"
            )
    lines += [
        "",
        "| preset | predicted GPU hours | the paper's | the share of the peak that these imply |",
        "|---|---|---|---|",
    ]
    for size, hours in PAPER.items():
        work = work_of("pretrain", f"llama2_{size}", model_of(f"llama2_{size}"))
        work = replace(work, trained_tokens=TOKENS)
        slow, fast = (gpu_hours(work, PEAK, share) or 0.0 for share in UTILISATION)
        whole = gpu_hours(work, PEAK, 1.0) or 0.0
        lines.append(f"| llama2_{size} | {fast:,.0f} to {slow:,.0f} | {hours:,} | {whole / hours:.1%} |")
    return "\n".join(lines)


def per_token(work: object) -> float:
    """Return the bytes of activations per token of a work's model."""
    from llamatrain import footprint

    return footprint.kept(work.model, work.zero, work.tokens, work.segments)  # type: ignore[attr-defined]


def page() -> str:
    """Return the page with its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    return f"{before}{START}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
