"""What does Ghost Attention bring? Recall of an instruction of the first turn, at every turn, against the same training without it.

    python benchmarks/ghost_attention.py runs/ghost_attention --base runs/demo --seeds 0 1 2

On the toy world, per seed: SFT of the base model on the world's dialogues, on ones whose every turn brings an instruction, and on long
ones without any; `llamatrain gatt` with that model; then two further fine-tunings of it, equally long: on the same dialogues
(`baseline`), and with the rows of gatt.jsonl among them (`gatt`). Both are measured by `llamatrain recall` at turns 1 to 20, on
held-out questions. `--base` is the folder of a pipeline on the toy world, whose base model and tokenizer are used, with 1,024
positions; its world's seed is kept. A line a seed goes to results/ghost_attention.jsonl. Every step is a run: the same command
goes on where it was interrupted, and a seed that has its line is left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "ghost_attention.jsonl"
sys.path.insert(0, str(ROOT))

from llamatrain.statistics import mean_interval, paired_interval  # noqa: E402

POSITIONS, TURNS = 1024, range(1, 21)
SIZES = {"dialogues": 2000, "instructed": 3000, "turns": 1000, "turns_eval": 60, "epochs": 2, "steps": 200}


def main() -> int:
    """Train and measure each seed, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name, default in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options = parser.parse_args()
    base = with_positions(options.base / "pretrain" / "final", options.folder / "base")
    sizes = {name: getattr(options, name) for name in SIZES}
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for seed in options.seeds:
        if any(line["seed"] == seed and line["sizes"] == sizes for line in done):
            continue
        found = measured(options.folder / f"seed_{seed}", base, options.base / "world", seed, sizes)
        about = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine()}
        with RESULTS.open("a") as file:
            file.write(json.dumps({**about, "seed": seed, "sizes": sizes, **found}) + "\n")
        print("| turn | baseline | gatt | difference (95 %) |\n|---|---|---|---|")
        for turn, row in found["recall"].items():
            low, high = row["interval"]
            print(
                f"| {turn} | {row['baseline']:.2f} | {row['gatt']:.2f} | {row['difference']:+.2f} ({low:+.2f} to {high:+.2f}) |"
            )
    return 0


def with_positions(checkpoint: Path, folder: Path) -> Path:
    """Return a checkpoint's model with a longer context: rotary positions have no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to((checkpoint / name).resolve())
    config = json.loads((checkpoint / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": POSITIONS}))
    return folder


def measured(folder: Path, base: Path, world: Path, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the recall of both models at every turn, and what gatt.jsonl holds."""
    own, about = folder / "world", json.loads((world / "world.json").read_text())
    counts = [f"{name}={sizes[name]}" for name in ("dialogues", "instructed", "turns", "turns_eval")]
    start("toyworld", folder, "world", seed, f"seed={about['seed']}", "documents_mb=0.1", *counts)
    dialogues = [str(own / f"{name}.jsonl") for name in ("dialogues", "instructed", "turns")]
    tuning = ["batch_sequences=2", "run.save_every=50", "samples_every=0", "run.eval_every=0"]
    first = [f"checkpoint={base}", train(dialogues), f"epochs={sizes['epochs']}", "optim.lr=1e-3"]
    start("sft", folder, "sft", seed, *first, *tuning)
    asked = [f"constraints={own / 'constraints.json'}", "sampling.max_new_tokens=40", "chunk_dialogues=32"]
    start(
        "gatt",
        folder,
        "rows",
        seed,
        f"checkpoint={folder / 'sft'}",
        f"dialogues=[{dialogues[2]}]",
        "rows_per_dialogue=2",
        *asked,
    )
    found: dict[str, dict[int, dict[str, float]]] = {}
    for name, files in (("baseline", dialogues), ("gatt", [*dialogues, str(folder / "rows" / "gatt.jsonl")])):
        epochs = sizes["steps"] / steps_of(folder / "sft", sizes["epochs"]) if name == "baseline" else None
        again = [f"checkpoint={folder / 'sft'}", train(files), "optim.lr=7e-4"]
        start(
            "sft",
            folder,
            name,
            seed,
            *again,
            f"epochs={epochs or epochs_for(files, dialogues, folder, sizes)}",
            *tuning,
        )
        turns = f"turns=[{','.join(map(str, TURNS))}]"
        measure = [
            f"checkpoint={folder / name}",
            f"dialogues=[{own / 'turns_eval.jsonl'}]",
            turns,
            "sampling.temperature=0",
        ]
        start("recall", folder, f"recall_{name}", seed, *measure, *asked)
        found[name] = by_dialogue(folder / f"recall_{name}" / "recall.jsonl")
    return {"recall": {turn: compared(found, turn) for turn in TURNS}, "rows": last(folder / "rows"), **trained(folder)}


def train(files: list[str]) -> str:
    """Return the override that names the dialogues."""
    return f"train=[{','.join(files)}]"


def start(program: str, folder: Path, name: str, seed: int, *overrides: str) -> None:
    """Run a program, or go on with its run; one that is done does nothing."""
    status = folder / name / "status.json"
    if status.exists() and json.loads(status.read_text())["state"] == "done":
        return
    about = [f"run.dir={folder}", f"run.name={name}", f"run.seed={seed}", "run.wandb.mode=disabled"]
    subprocess.run([sys.executable, "-m", "launch", program, *about, *overrides], cwd=ROOT, check=True)


def steps_of(run: Path, epochs: int) -> float:
    """Return a finished run's steps per epoch."""
    return float(json.loads((run / "status.json").read_text())["step"]) / epochs


def epochs_for(files: list[str], dialogues: list[str], folder: Path, sizes: dict[str, int]) -> float:
    """Return the epochs that are as many steps with the further rows as without: by the bytes, near enough."""
    total, former = (sum(Path(file).stat().st_size for file in one) for one in (files, dialogues))
    return sizes["steps"] / (steps_of(folder / "sft", sizes["epochs"]) * total / former)


def by_dialogue(path: Path) -> dict[int, dict[str, float]]:
    """Return turn -> dialogue -> the share of its attributes that the answer keeps to."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for row in map(json.loads, path.read_text().splitlines()):
        found[row["turn"]][row["dialogue"]] = fmean(row["kept"].values())
    return found


def compared(found: dict[str, dict[int, dict[str, float]]], turn: int) -> dict[str, Any]:
    """Return both models' recall at a turn, and the paired difference with its interval over dialogues."""
    sides = {name: {dialogue: [share] for dialogue, share in of[turn].items()} for name, of in found.items()}
    difference = paired_interval(sides["gatt"], sides["baseline"])
    assert difference is not None
    means = {name: round(mean_interval([one for (one,) in of.values()]).mean, 4) for name, of in sides.items()}
    interval = [None if end is None else round(end, 4) for end in (difference.low, difference.high)]
    return {**means, "difference": round(difference.mean, 4), "interval": interval, "dialogues": difference.count}


def trained(folder: Path) -> dict[str, Any]:
    """Return how many steps each model took, and its last training loss."""
    rows = {name: last(folder / name) for name in ("sft", "baseline", "gatt")}
    return {name: {"steps": row["step"], "loss": round(row["train/loss"], 4)} for name, row in rows.items()}


def last(run: Path) -> dict[str, Any]:
    """Return a run's last metrics."""
    row: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return row


if __name__ == "__main__":
    sys.exit(main())
