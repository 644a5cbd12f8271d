"""Time each program from its start to its first unit of work, and the parts of that, on the parents of a finished demo.

    python benchmarks/startup.py --demo runs/demo
    python benchmarks/startup.py --demo runs/demo --against ../another-checkout

The first unit is the first optimizer step (PPO: iteration; rejection sampling draws one response before it); other programs are timed from start to end. Each round
starts every program once, and beside them an interpreter that only imports torch and deepspeed: the floor. Medians
count. The parts are timed from outside (tracing/sitecustomize.py); with `--against`, another checkout is started in
alternation, and the medians of its seconds over ours are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from chain import ROOT, commit, machine

sys.path.insert(0, str(ROOT))
from launch.graph import Graph, Stage, resolve
from launch.graphs.chat import chat
from launch.pipeline import PipelineConfig
from launch.plan import Composed, compose
from llamatrain.config.compose import compose as composed
from llamatrain.config.compose import keys_given, write_settings
from llamatrain.config.options import FROM_FILE


def stages() -> dict[str, Stage]:
    """Return the demo's stages by name."""
    cfg, graph = composed("pipeline", PipelineConfig, ["preset=demo"]), Graph()
    chat(graph, cfg, cfg.data)
    return graph.stages


STAGES = stages()
TRACING = Path(__file__).resolve().parent / "tracing"

# Program -> (stage whose overrides it takes, overrides for four steps or two iterations).
TRAINING = {
    "pretrain": ("pretrain", ["tokens=null", "steps=4", "eval_sequences=1"]),
    "sft": ("sft", ["epochs=0.013"]),
    "reward": ("v1_reward_safety", ["epochs=0.07"]),
    "rejection_sampling": ("v1_rejection_sampling", ["max_prompts=1", "samples_per_prompt=1", "steps=4"]),
    "ppo": (
        "ppo",
        [
            "iterations=2",
            "rollout_prompts=2",
            "mini_batch_prompts=2",
            "micro_batch_size=2",
            "sampling.max_new_tokens=1",
        ],
    ),
}
OTHERS = {
    "sample": ("sample_ppo", ["max_prompts=1", "samples_per_prompt=1", "sampling.max_new_tokens=1"]),
    "reward.evaluate": ("v1_accuracy_safety", []),
    "judge": ("judge_ppo", []),
    "toyworld": ("world", ["documents_mb=0.01", "dialogues=10", "prompts=30", "prompts_eval=10"]),
}

FLOOR = """
import time
import torch
import deepspeed
print(time.monotonic(), time.process_time())
"""
# A package's import counts with what it imports, unless that is another one of these.
PACKAGES = {
    "torch": "import torch",
    "deepspeed": "import deepspeed",
    "hydra": "import hydra, omegaconf",
    "omegaconf": "import hydra, omegaconf",
    "wandb": "import wandb",
}
PARTS = [
    "interpreter, command line",
    "import torch",
    "import deepspeed",
    "import hydra, omegaconf",
    "import the rest",
    "configuration",
    "data",
    "parents verified",
    "process group",
    "run folder",
    "model",
    "engine",
    "sampling",
    "the rest",
]
TOTAL, FLOOR_ROW, OWN = "**to the first step**", "floor: interpreter, torch, deepspeed", "**above the floor**"
BUSY, FLOOR_BUSY = "processor time to the first step", "processor time of the floor"
FIRST, LATER, LOG = "the first step itself", "a later step", "first line logged (opens the dashboard)"
ROWS = [*PARTS, TOTAL, FLOOR_ROW, OWN, BUSY, FLOOR_BUSY, FIRST, LATER, LOG]


@dataclass
class Span:
    """A part of a program's start, in seconds since then, and the processor time that had passed when it began."""

    part: str
    begin: float
    end: float
    busy: float


@dataclass
class Trace:
    """What a program's process did, and when its interpreter was ready, in seconds since it was started."""

    ready: float
    spans: list[Span]


def main() -> None:
    """Measure in rounds and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--programs", nargs="+", choices=[*TRAINING, *OTHERS], default=[*TRAINING, *OTHERS])
    parser.add_argument("--against", type=Path, help="another checkout, started in alternation")
    options = parser.parse_args()
    roots = [ROOT, options.against.resolve()] if options.against else [ROOT]
    demo = options.demo.resolve()
    parts: dict[tuple[Path, str], list[dict[str, float]]] = defaultdict(list)
    walls: dict[tuple[Path, str], list[float]] = defaultdict(list)
    for number in range(options.repeats):
        base = floor()
        for program in options.programs:
            for root in roots if number % 2 == 0 else roots[::-1]:
                if program in TRAINING:
                    parts[root, program].append(training(program, demo, root, base))
                else:
                    walls[root, program].append(wall(program, demo, root))
    print(f"{commit()}, {machine()}, {time.strftime('%Y-%m-%d')}, median of {options.repeats}\n")
    table([p for p in options.programs if p in TRAINING], parts)
    print("\n| program | seconds from start to end |\n|---|---|")
    for program in (p for p in options.programs if p in OTHERS):
        print(f"| {program} | {statistics.median(walls[ROOT, program]):.2f} |")
    if options.against:
        print(f"\n| program | {roots[1].name} | here | here over it |\n|---|---|---|---|")
        for program in options.programs:
            theirs, ours = (walls[r, program] or [run[TOTAL] for run in parts[r, program]] for r in roots[::-1])
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            print(f"| {program} | {statistics.median(theirs):.2f} | {statistics.median(ours):.2f} | {ratio:.2f} |")


def table(programs: list[str], parts: dict[tuple[Path, str], list[dict[str, float]]]) -> None:
    """Print the medians: a row a part, a column a program."""
    print(f"| seconds | {' | '.join(programs)} |\n|---|{'---|' * len(programs)}")
    for row in ROWS:
        cells = [statistics.median(run.get(row, 0.0) for run in parts[ROOT, program]) for program in programs]
        print(f"| {row} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")


def floor() -> dict[str, float]:
    """Return the seconds until an interpreter that is told nothing has imported torch and deepspeed."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", FLOOR], capture_output=True, text=True, check=True)
    ended, busy = map(float, done.stdout.split()[-2:])
    return {FLOOR_ROW: ended - started, FLOOR_BUSY: busy}


def start(program: str, demo: Path, root: Path, folder: str, trace: bool) -> float:
    """Run a program with its stage's overrides to its end; return when it was started."""
    stage, less = {**TRAINING, **OTHERS}[program]
    values = resolve(compose(replace(STAGES[stage], overrides=tuple(less)), ["demo"], None, Composed()), demo, None)
    values["run"] |= {"dir": folder, "name": "job", "given": keys_given(program, less)}
    settings = Path(folder) / "job.yaml"
    write_settings(settings, values)
    command = [sys.executable, "-m", "launch", program, f"{FROM_FILE}={settings}"]
    environment = dict(os.environ)
    if trace:
        environment |= {"STARTUP_TRACE": folder, "PYTHONPATH": str(TRACING)}
    started = time.monotonic()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return started


def wall(program: str, demo: Path, root: Path) -> float:
    """Return the seconds from a program's start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        return -start(program, demo, root, folder, trace=False) + time.monotonic()


def training(program: str, demo: Path, root: Path, base: dict[str, float]) -> dict[str, float]:
    """Return the seconds of each part of a training program's start; `base` is the floor."""
    with tempfile.TemporaryDirectory() as folder:
        started = start(program, demo, root, folder, trace=True)
        trace = read_trace(Path(folder), started)
        lines = [json.loads(line) for line in (Path(folder) / "job" / "metrics.jsonl").read_text().splitlines()]
    log = next(span for span in trace.spans if span.part == "log")
    # PPO's iterations begin with sampling, and say themselves how long they took.
    first = next(span for span in trace.spans if span.part == ("sampling" if program == "ppo" else "step"))
    steps = [span.end - span.begin for span in trace.spans if span.part == "step"]
    steps = steps or [sum(v for k, v in line.items() if k.startswith("ppo/seconds")) for line in lines]
    found = shares(trace, first.begin)
    found["interpreter, command line"] = trace.ready
    found["the rest"] = first.begin - sum(found.values())
    return {
        **found,
        **base,
        TOTAL: first.begin,
        OWN: first.begin - base[FLOOR_ROW],
        BUSY: first.busy,
        FIRST: steps[0],
        LATER: statistics.median(steps[1:]),
        LOG: log.end - log.begin,
    }


def read_trace(folder: Path, started: float) -> Trace:
    """Return the trace of the process that ran the program; processes that it started may have left theirs, too."""
    for path in folder.glob("*.json"):
        content = json.loads(path.read_text())
        spans = [Span(part, begin - started, end - started, busy) for part, begin, end, busy in content["spans"]]
        if any(span.part == "configuration" for span in spans):
            return Trace(content["ready"][-1] - started, sorted(spans, key=lambda span: (span.begin, -span.end)))
    raise SystemExit(f"no trace in {folder}")


def shares(trace: Trace, until: float) -> dict[str, float]:
    """Return the seconds of each part before `until`, what lies within another part taken off that one."""
    seconds: dict[str, float] = defaultdict(float)
    around: list[tuple[str, float]] = []  # the parts a span lies in, with their ends
    configured = next(span.begin for span in trace.spans if span.part == "configuration")
    for span in [Span("import the rest", trace.ready, configured, 0.0), *trace.spans]:
        if span.begin >= until:
            break
        begin, end, part = span.begin, min(span.end, until), span.part
        while around and around[-1][1] <= begin:
            around.pop()
        if part.startswith("import "):
            package = PACKAGES.get(part.removeprefix("import "))
            outer = around[-1][0] if around and around[-1][0].startswith("import ") else "import the rest"
            part = package or outer
        seconds[part] += end - begin
        if around:
            seconds[around[-1][0]] -= end - begin
        around.append((part, end))
    return seconds


if __name__ == "__main__":
    main()
