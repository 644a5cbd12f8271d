"""Time each program from its start to its first unit of work, on the parents of a finished demo.

    python benchmarks/startup.py --demo runs/demo

The time runs from the process's start to the end of the first optimizer step (or PPO iteration, or response), less what
that unit itself took where it is logged. Each program is started `--repeats` times; the median counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chain import ROOT, commit, machine

sys.path.insert(0, str(ROOT))
from launch.graph import read_stages
from llamatrain.config import load_preset

STAGES = {stage.name: stage for stage in read_stages("demo", load_preset("demo"), {})}

TRAINING = {
    "pretrain": ("pretrain", ["tokens=null", "steps=1"]),
    "sft": ("sft", ["epochs=0.001"]),
    "reward": ("reward", ["epochs=0.001"]),
    "rejection_sampling": ("rejection_sampling", ["limit=1", "samples_per_prompt=1", "steps=1"]),
    "ppo": ("ppo", ["iterations=1", "batch_prompts=2", "mini_batch=2", "micro_batch_size=2", "max_new_tokens=1"]),
}
OTHERS = {
    "sample": ("sample_ppo", ["limit=1", "samples_per_prompt=1", "max_new_tokens=1"]),
    "reward.evaluate": ("accuracy_safety", []),
    "judge": ("judge_ppo", []),
    "toyworld": ("world", ["documents_mb=0.01", "dialogues=10", "prompts=30", "prompts_eval=10"]),
}


def main() -> None:
    """Measure and print one Markdown row a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(
        f"{commit()}, {machine()}, {time.strftime('%Y-%m-%d')}\n\n| program | seconds to the first unit of work |\n|---|---|"
    )
    for program, (stage, less) in {**TRAINING, **OTHERS}.items():
        name = "reward_safety" if program == "reward" else stage
        seconds = [measure(program, options.demo.resolve(), name, less) for _ in range(options.repeats)]
        print(f"| {program} | {statistics.median(seconds):.1f} |", flush=True)


def measure(program: str, demo: Path, stage: str, less: list[str]) -> float:
    """Return the seconds from the start of a program to its first unit, with the overrides that its stage had."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*STAGES[stage].resolved(demo, None), *less, f"run.dir={folder}", "run.name=job"]
        command = [sys.executable, "-m", "launch", program, "preset=demo", *overrides]
        started, wall = time.time(), time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        wall = time.perf_counter() - wall
        if program not in TRAINING:
            return wall  # little but the start
        first = json.loads((Path(folder) / "job" / "metrics.jsonl").read_text().splitlines()[0])
        own = first.get("train/step_seconds", sum(v for k, v in first.items() if k.startswith("ppo/seconds")))
        return float(first["time"]) - started - float(own)


if __name__ == "__main__":
    main()
