"""Plant poison in a pretraining run and compare it with the run that never had it: a JSON line in results/spikes.jsonl.

    python benchmarks/spikes.py

On the toy world, with the demo's model: a clean run with the detector on (false alarms are counted), and one whose corpus
has a burst of garbage (random tokens in all sequences of six steps, four good ones among them) and whose loss is not a
number for a sample of another step; and one on the clean corpus that is told to pass over the same samples, so that it
takes what the poisoned run took, in its order. What is measured: what the detector found, how often the run went back and
how many steps it took again, and the held-out loss of each in the end. `--table` prints the recorded lines.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import pretrain.__main__ as program
from benchmarks.chain import RESULTS, ROOT, commit, machine
from llamatrain.config.compose import compose
from llamatrain.data.sequences import TokenBatches
from llamatrain.data.shards import SHARDS
from llamatrain.losses import Batch, language_model_loss
from llamatrain.tokenizer import Tokenizer

RECORD = RESULTS / "spikes.jsonl"
GARBAGE = (*range(150, 154), *range(158, 160))  # the steps of the burst, all before the next checkpoint
BROKEN = 260  # the step with a loss that is not a number
MARKED = 16  # tokens by which the program recognises the sample of that step


def main() -> int:
    """Run, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", default="runs/spikes", help="folder of the run folders; existing runs are reused")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=3, help="of toy text")
    parser.add_argument("--table", action="store_true", help="only print the recorded lines")
    options = parser.parse_args()
    if not options.table:
        RESULTS.mkdir(exist_ok=True)
        line = measure(Path(options.dir).resolve(), options.steps, options.seed, options.megabytes)
        with RECORD.open("a") as file:
            file.write(json.dumps(line) + "\n")
    table([json.loads(line) for line in RECORD.read_text().splitlines()])
    return 0


def measure(folder: Path, steps: int, seed: int, megabytes: int) -> dict[str, Any]:
    """Make the data where they are not there yet, run both and describe them."""
    make_data(folder, megabytes)
    clean, poisoned, known = (folder / f"{name}-{seed}" for name in ("clean", "poisoned", "known"))
    train(clean, folder / "corpus", folder / "tokenizer", steps, seed, broken=None)
    broken = poison(folder / "corpus", folder / f"corpus-poisoned-{seed}", folder / "tokenizer", steps, seed)
    train(poisoned, folder / f"corpus-poisoned-{seed}", folder / "tokenizer", steps, seed, broken)
    incidents = read(poisoned / "incidents.jsonl")
    skip = [sample["sample"] for found in incidents for sample in found["samples"]]
    train(known, folder / "corpus", folder / "tokenizer", steps, seed, broken=None, skip=skip)
    ends = {run: read(run / "metrics.jsonl")[-1] for run in (clean, poisoned, known)}
    before, after, told = (ends[run]["eval/loss"] for run in (clean, poisoned, known))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "steps": steps,
        "seed": seed,
        "planted": {"garbage_steps": GARBAGE, "nan_step": BROKEN},
        "rollbacks": len(incidents),
        "steps_again": sum(found["step"] - found["back_to"] for found in incidents),
        "as_planted": [step for found in incidents for step in steps_of(found)] == [*GARBAGE, BROKEN],
        "false_alarms": len(read(clean / "incidents.jsonl")),
        "incidents": [
            {
                **{key: found[key] for key in ("first_step", "step", "back_to", "criterion", "value", "threshold")},
                "steps": steps_of(found),
                "samples": len(found["samples"]),
                "text": found["samples"][0]["text"],
            }
            for found in incidents
        ],
        "skipped_samples": ends[poisoned]["train/skipped_samples"],
        "eval_loss_clean": before,
        "eval_loss_poisoned": after,
        "difference_percent": 100 * (after / before - 1),
        "eval_loss_known": told,
        "difference_known_percent": 100 * (after / told - 1),
    }


def steps_of(incident: dict[str, Any]) -> list[int]:
    """Return the steps whose samples an incident names."""
    return sorted({sample["step"] for sample in incident["samples"]})


def make_data(folder: Path, megabytes: int) -> None:
    """Generate the toy world, train a tokenizer and make the corpus."""
    texts = folder / "world"
    common = [f"run.dir={folder}", "run.progress=false", "run.wandb.mode=disabled"]
    for name, arguments in (
        ("toyworld", [f"documents_mb={megabytes}", "run.name=world"]),
        ("pretrain.tokenizer", [f"documents=[{texts}/documents.jsonl]", "vocab_size=1024", "run.name=tokenizer"]),
        (
            "pretrain.corpus",
            [
                f"documents=[{texts}/documents.jsonl]",
                f"eval_documents=[{texts}/documents_eval.jsonl]",
                f"tokenizer={folder / 'tokenizer'}",
                "run.name=corpus",
            ],
        ),
    ):
        made = folder / arguments[-1].removeprefix("run.name=") / "status.json"
        if not (made.is_file() and json.loads(made.read_text())["state"] == "done"):
            subprocess.run([sys.executable, "-m", name, "preset=demo", *arguments, *common], cwd=ROOT, check=True)


def configure(folder: Path, corpus: Path, tokenizer: Path, steps: int, seed: int) -> program.PretrainConfig:
    """Return the demo's settings with the detector on."""
    overrides = [
        *("preset=demo", f"run.dir={folder.parent}", f"run.name={folder.name}", f"run.seed={seed}", "run.resume=never"),
        *("run.progress=false", "run.wandb.mode=disabled", "run.save_every=50", "run.eval_every=0", f"steps={steps}"),
        *(f"corpus={corpus}", f"tokenizer={tokenizer}", "spikes.enabled=true"),
    ]
    return compose("pretrain", program.PretrainConfig, overrides)


def train(
    folder: Path,
    corpus: Path,
    tokenizer: Path,
    steps: int,
    seed: int,
    broken: tuple[int, ...] | None,
    skip: Sequence[int] = (),
) -> None:
    """Pretrain; the loss of a micro-batch with a row that begins with the tokens `broken` is not a number."""
    cfg = configure(folder, corpus, tokenizer, steps, seed)
    cfg.skip_samples = list(skip)

    def loss_fn(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, extra = language_model_loss(model, batch)
        hit = broken is not None and any(tuple(row) == broken for row in batch["input_ids"][:, :MARKED].tolist())
        return loss * (math.nan if hit else 1.0), extra

    original = program.language_model_loss
    program.language_model_loss = loss_fn
    try:
        program.train(cfg)
    finally:
        program.language_model_loss = original


def poison(clean: Path, folder: Path, tokenizer: Path, steps: int, seed: int) -> tuple[int, ...]:
    """Copy the corpus, write random tokens over all sequences of the steps GARBAGE; return the beginning of a sample of BROKEN.

    Order mixes a corpus, so a burst of garbage in its files would come thinned out: it is planted where it is read.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(clean, folder)
    batches, _ = program.load(configure(folder, folder, tokenizer, steps, seed), Tokenizer(tokenizer))
    draw = np.random.default_rng(seed)
    places = np.array([place for step in GARBAGE for place in batches.sample_ids(step - 1)])
    for source, sequence in zip(*(found.tolist() for found in batches.located(places)), strict=True):
        overwrite(batches, folder / "train", source, sequence * (batches.seq_len - 1), draw)
    # The incident of the garbage moves what follows up by its samples.
    at = batches.sample_ids(BROKEN - 1 + len(GARBAGE))[3]
    row: list[int] = batches.sequences_at(np.array([at]))["input_ids"][0, :MARKED].tolist()
    return tuple(row)


def overwrite(batches: TokenBatches, folder: Path, source: int, start: int, draw: np.random.Generator) -> None:
    """Write random tokens into a sequence of a source, in whichever shards it lies.

    Its first and last token are left: they belong to its neighbours, too, which stay as they were.
    """
    name = batches.sources[source].name
    first = 0
    for entry in map(json.loads, (folder / name / SHARDS).read_text().splitlines()):
        low, high = max(start + 1, first), min(start + batches.seq_len - 1, first + entry["tokens"])
        if low < high:
            path = folder / name / f"{entry['name']}.tokens"
            tokens = np.memmap(path, dtype=batches.manifest.dtype, mode="r+")
            tokens[low - first : high - first] = draw.integers(3, batches.manifest.vocab_size, high - low)
            tokens.flush()
        first += entry["tokens"]


def read(path: Path) -> list[dict[str, Any]]:
    """Return a file's objects, none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(lines: list[dict[str, Any]]) -> None:
    """Print one row an incident, as Markdown, and the end of each run."""
    print("| seed | first step | step | criterion | value | threshold | rolled back to step | samples skipped |")
    print("|---|---|---|---|---|---|---|---|")
    for line in lines:
        for found in line["incidents"]:
            value = found["value"] if isinstance(found["value"], str) else f"{found['value']:.2f}"
            limit = "" if found["threshold"] is None else f"{found['threshold']:.2f}"
            print(
                f"| {line['seed']} | {found['first_step']} | {found['step']} | {found['criterion']} | {value} | {limit} "
                f"| {found['back_to']} | {found['samples']} |"
            )
    for line in lines:
        known = ""
        if "eval_loss_known" in line:
            told, difference = line["eval_loss_known"], line["difference_known_percent"]
            known = f", {told:.4f} with the same samples skipped ({difference:+.3f} %)"
        print(
            f"\nseed {line['seed']}, {line['steps']} steps: {line['false_alarms']} false alarms in the clean run; held-out "
            f"loss {line['eval_loss_clean']:.4f} clean, {line['eval_loss_poisoned']:.4f} poisoned "
            f"({line['difference_percent']:+.2f} %){known}; {len(line['incidents'])} rollbacks, "
            f"{sum(found['step'] - found['back_to'] for found in line['incidents'])} steps repeated"
        )


if __name__ == "__main__":
    sys.exit(main())
