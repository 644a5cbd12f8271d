"""Run a preset's whole chain for some seeds and record what came out: a JSON line a seed in results/<preset>.jsonl.

    python benchmarks/chain.py --preset demo --seeds 1 2 3
    python benchmarks/chain.py --preset fairytales --data-root ../data

Finished chains are not run again: the line then tells of the run folder as it lies. `--table` prints the recorded lines.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> int:
    """Run, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--dir", default="runs", help="folder of the run folders")
    parser.add_argument("--data-root")
    parser.add_argument("--table", action="store_true", help="only print the recorded lines")
    options = parser.parse_args()
    record = RESULTS / f"{options.preset}.jsonl"
    if not options.table:
        for seed in options.seeds:
            folder = Path(options.dir) / f"{options.preset}-{seed}"
            overrides = [f"run.dir={options.dir}", f"run.name={folder.name}", f"seed={seed}"]
            overrides += [f"data.root={options.data_root}"] if options.data_root else []
            command = [sys.executable, "-m", "launch", "pipeline", f"preset={options.preset}", *overrides]
            code = subprocess.run(command, cwd=ROOT).returncode
            if code:
                return code
            RESULTS.mkdir(exist_ok=True)
            with record.open("a") as file:
                file.write(json.dumps(describe(ROOT / folder, seed)) + "\n")
    table([json.loads(line) for line in record.read_text().splitlines()])
    return 0


def describe(folder: Path, seed: int) -> dict[str, Any]:
    """Return what a finished chain measured, with the commit, machine and date."""
    names = list(json.loads((folder / "pipeline.json").read_text())["stages"])
    status = {name: json.loads((folder / name / "status.json").read_text()) for name in names}
    wall = {name: json.loads((folder / name / "stage.json").read_text()).get("seconds") for name in names}
    evaluation = json.loads((folder / "evaluate" / "evaluation.json").read_text())
    evaluation.pop("by_kind", None)  # long, and in the report
    accuracy = {
        path.parent.name: json.loads(path.read_text())["overall"] for path in sorted(folder.glob("*/accuracy.json"))
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "seed": seed,
        "minutes": round(sum(w or s["seconds"] for w, s in zip(wall.values(), status.values(), strict=True)) / 60, 2),
        "seconds": {name: round(wall[name] or status[name]["seconds"], 1) for name in names},
        "accuracy": accuracy,
        "evaluation": evaluation,
    }


def commit(checkout: Path = ROOT) -> str:
    """Return the checked-out commit, marked where the tree has changes."""
    shown = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=checkout, capture_output=True, text=True)
    return shown.stdout.strip()


def machine() -> str:
    """Return processor, by its family and model as well, for a name may stand for several, and cores."""
    told = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    facts = {name.strip(): value.strip() for name, _, value in told}
    kind = (
        f"{facts.get('model name', platform.processor())}, family {facts.get('cpu family')} model {facts.get('model')}"
    )
    return f"{len(os.sched_getaffinity(0))} cores of {kind}, Python {platform.python_version()}"


def table(lines: list[dict[str, Any]]) -> None:
    """Print one row a seed and model, as Markdown."""
    print(
        "| seed | model | helpfulness | safety | helpfulness, over the previous | safety, over the previous | minutes |"
    )
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        evaluation = line["evaluation"]
        for model, values in evaluation["models"].items():
            cells = []
            for metric in ("helpfulness", "safety"):
                mean = values.get(metric) or values.get(f"score_{metric}")
                cells.append(f"{mean['mean']:.3f} ± {(mean['high'] - mean['low']) / 2:.3f}" if mean else "")
            for metric in ("helpfulness", "safety"):
                found = [
                    c
                    for c in evaluation["comparisons"]
                    if c["model"] == model and c["metric"] in (metric, f"score_{metric}")
                ]
                best = next((c for c in found if c["metric"] == metric), found[0] if found else None)
                cells.append(f"{best['difference']:+.3f} ({best['low']:+.3f} to {best['high']:+.3f})" if best else "")
            print(f"| {line['seed']} | {model} | {' | '.join(cells)} | {line['minutes']} |")


if __name__ == "__main__":
    sys.exit(main())
