"""Speed of the program `benchmark` on one model and the same rows, against lm-evaluation-harness's own `hf` model.

    python benchmarks/benchmark_speed.py --checkpoint runs/demo/ppo/final --root rows --tasks piqa arc_easy gsm8k_cot

Both sides are in one process, have the same weights, batch and task objects, and take turns on each task; rows are read and
requests built before the clock runs, and each side warms up. A ratio is of the two times of one round. A line per task goes to
results/benchmark_speed.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "benchmark_speed.jsonl"


def main() -> None:
    """Take turns, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--root", required=True, help="folder with the rows, as for llamatrain benchmark")
    parser.add_argument("--tasks", nargs="+", default=["piqa", "arc_easy", "gsm8k_cot"])
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()

    from lm_eval.models.huggingface import HFLM

    from evaluation.benchmarks import harness
    from evaluation.benchmarks.config import BenchmarkConfig
    from evaluation.benchmarks.reading import Reader
    from llamatrain.config.compose import compose
    from llamatrain.responses.models import load_inference
    from llamatrain.tokenizer import Tokenizer

    harness.quiet()
    folder = Path(options.checkpoint).resolve()
    given = [f"checkpoint={folder}", f"root={options.root}", f"tasks=[{','.join(options.tasks)}]", "run.name=speed"]
    cfg = compose("benchmark", BenchmarkConfig, given)
    model = load_inference(folder, "cpu", "float32", scalar=False)  # type: ignore[arg-type]
    reader = Reader(model, Tokenizer(folder), options.batch, options.batch, False, lambda: None)
    sides: dict[str, Any] = {
        "llamatrain": harness.Model(reader, seed=0),
        "hf": HFLM(pretrained=str(folder), device="cpu", batch_size=options.batch),
    }
    for leaf in (leaf for group in cfg.groups() for leaf in harness.leaves(group, cfg)):
        task = leaf.build()
        task.build_all_requests(limit=options.rows, rank=0, world_size=1)
        kind = task.instances[0].request_type
        times: dict[str, list[float]] = {name: [] for name in sides}
        for round_ in range(options.rounds + 1):  # the first warms up
            for name, side in sides.items():
                started = time.monotonic()
                getattr(side, kind)(task.instances, **({} if name == "llamatrain" else {"disable_tqdm": True}))
                if round_:
                    times[name].append(time.monotonic() - started)
        ratios = [hf / own for hf, own in zip(times["hf"], times["llamatrain"], strict=True)]
        line = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "commit": subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
            ).stdout.strip(),
            "cores": len(os.sched_getaffinity(0)),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "task": leaf.name,
            "kind": kind,
            "requests": len(task.instances),
            "batch": options.batch,
            "seconds": {name: round(statistics.median(own), 2) for name, own in times.items()},
            "times as fast": [round(ratio, 2) for ratio in sorted(ratios)],
        }
        print(line, flush=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
