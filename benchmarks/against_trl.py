"""Fine-tuning and reward models against TRL's trainers: what they learn from the same tokens, and how fast.

    python -m venv PEERS && PEERS/bin/pip install torch==2.13.0 transformers trl datasets accelerate
    python benchmarks/against_trl.py reward --start runs/fairytales/sft --pairs hh_rlhf:helpful-base.jsonl.gz --peer PEERS/bin/python
    python benchmarks/against_trl.py sft --start runs/fairytales/pretrain --dialogues oasst:en_100_tree.jsonl --peer PEERS/bin/python

Both sides get the same tokens, model, settings, rates of each step and number of steps, `reward` the same batches too. The
folds hold every pair (dialogue) out once per seed; both sides' models are scored by the same code. The difference is paired
by pair (dialogue), its samples the seeds, and gets a 95 % interval. A line a comparison goes to results/against_trl.jsonl. With
`--folder` the folds that are done stay there, and the same command goes on from them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "against_trl.jsonl"
PEER = Path(__file__).resolve().parent / "trl_side.py"
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from llamatrain import atomic, checkpoint, hf_folder, hf_tokenizer  # noqa: E402
from llamatrain.chat import encode_dialogue  # noqa: E402
from llamatrain.config.compose import compose_dict  # noqa: E402
from llamatrain.data.dialogues import DialogueBatches  # noqa: E402
from llamatrain.data.kinds import DialogueRow  # noqa: E402
from llamatrain.data.rows import read_rows  # noqa: E402
from llamatrain.engine.learning import Engine  # noqa: E402
from llamatrain.fit import train_step  # noqa: E402
from llamatrain.losses import language_model_loss  # noqa: E402
from llamatrain.responses.pairs import score_pairs  # noqa: E402
from llamatrain.settings import OptimConfig, ZeroConfig  # noqa: E402
from llamatrain.start import language_engine, scalar_engine  # noqa: E402
from llamatrain.statistics import mean_interval, paired_interval  # noqa: E402
from reward.__main__ import pair_loss  # noqa: E402
from reward.data import PairBatches, load_pairs  # noqa: E402

FOLDS = 5
CENTRED = 0.01  # weight of the centring term on both sides
Values = dict[str, list[float]]  # pair or dialogue -> a value per seed


def main() -> int:
    """Compare, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["reward", "sft"])
    parser.add_argument("--start", required=True, help="checkpoint that both sides start from")
    parser.add_argument("--pairs", help="source of preferences")
    parser.add_argument("--dialogues", help="source of dialogues")
    parser.add_argument("--peer", required=True, help="python with trl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=16, help="pairs, or packed rows")
    parser.add_argument("--max-length", type=int, default=320)
    parser.add_argument("--folder", type=Path, help="where the folds that are done stay")
    options = parser.parse_args()
    start = checkpoint.resolve(options.start, "sft")
    ours, theirs = Values(), Values()
    for seed in options.seeds:
        for fold in options.folds:
            for side, found in zip((ours, theirs), of_fold(options, start, seed, fold), strict=True):
                for name, value in found.items():
                    side.setdefault(name, []).append(value)
            print(f"seed {seed}, fold {fold}: {told(ours, theirs)}", flush=True)
    record(options, ours, theirs)
    return 0


def of_fold(options: argparse.Namespace, start: Path, seed: int, fold: int) -> list[dict[str, float]]:
    """Compare on a fold, or read what was found before with the same settings and code."""
    compare = compare_reward if options.task == "reward" else compare_sft
    same = {
        name: str(value) for name, value in vars(options).items() if name not in ("folder", "seeds", "folds", "peer")
    }
    about = {**same, "seed": seed, "fold": fold, "commit": commit()}
    kept = options.folder / f"{options.task}_{seed}_{fold}.json" if options.folder else None
    if kept and kept.is_file() and (found := json.loads(kept.read_text()))["about"] == about:
        return list(found["values"])
    with tempfile.TemporaryDirectory() as scratch:
        values = list(compare(options, start, seed, fold, Path(scratch)))
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(kept, {"about": about, "values": values})
    return values


def compare_reward(
    options: argparse.Namespace, start: Path, seed: int, fold: int, scratch: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Train both sides on the pairs outside a fold; return which of the fold's each ranks right (1 or 0)."""
    tokenizer = hf_folder.load_tokenizer(start)
    train, _ = load_pairs(f"{options.pairs}@without{fold}/{FOLDS}", tokenizer, options.max_length, "skip")
    held_out, _ = load_pairs(f"{options.pairs}@fold{fold}/{FOLDS}", tokenizer, options.max_length, "skip")
    batches = PairBatches(
        train,
        margin="none",
        max_length=options.max_length,
        batch_pairs=options.batch,
        micro_batch_size=options.batch,
        seed=seed,
    )
    steps = max(1, round(options.epochs * batches.steps_per_epoch))
    optim = settings("reward", options.lr)
    engine = scalar_engine(start, optim, ZeroConfig(**compose_dict("reward", QUIET)["zero"]), steps, seed)
    save(engine, scratch / "start", start, scalar=True)
    rows = [train[index] for step in range(steps) for index in batches.sample_ids(step)]
    lines = [{"chosen_ids": pair.chosen.tolist(), "rejected_ids": pair.rejected.tolist()} for pair in rows]
    folder = peer(options, "reward", scratch, lines, optim, steps, options.batch, seed)
    for step in range(steps):
        train_step(engine, batches.batch_at(step), lambda model, batch: pair_loss(model, batch, 0.0, CENTRED))
    save(engine, scratch / "ours", start, scalar=True)
    found = []
    for model in (scratch / "ours", folder):
        scores = score_pairs(hf_folder.load_model(model).eval(), held_out, options.max_length, 16)
        found.append({f"{fold}.{i}": float(chosen > rejected) for i, (chosen, rejected) in enumerate(scores)})
    return found[0], found[1]


def compare_sft(
    options: argparse.Namespace, start: Path, seed: int, fold: int, scratch: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Train both sides on the dialogues outside a fold; return the loss per answer token of each of the fold's."""
    tokenizer = hf_folder.load_tokenizer(start)
    train = list(read_rows(f"{options.dialogues}@without{fold}/{FOLDS}", DialogueRow))
    batches = DialogueBatches(
        train,
        tokenizer,
        max_length=options.max_length,
        batch_size=options.batch,
        micro_batch_size=options.batch,
        seed=seed,
    )
    steps = max(1, round(options.epochs * batches.steps_per_epoch))
    optim = settings("sft", options.lr)
    engine = language_engine(start, optim, ZeroConfig(**compose_dict("sft", QUIET)["zero"]), steps)
    save(engine, scratch / "start", start, scalar=False)
    lines = []
    for row in train:
        ids, mask = encode_dialogue(row["messages"], tokenizer)
        if len(ids) <= options.max_length:
            labels = [token if wanted else -100 for token, wanted in zip(ids, mask, strict=True)]
            lines.append({"input_ids": ids, "labels": labels})
    assert len(lines) == batches.counts["kept"]
    # As many steps over the same dialogues: ours takes packed rows, TRL so many dialogues as come to one such batch.
    per_step = round(options.epochs * len(lines) / steps)
    folder = peer(options, "sft", scratch, lines, optim, steps, per_step, seed)
    for step in range(steps):
        train_step(engine, batches.batch_at(step), language_model_loss)
    save(engine, scratch / "ours", start, scalar=False)
    held_out = list(read_rows(f"{options.dialogues}@fold{fold}/{FOLDS}", DialogueRow))
    found = []
    for model in (scratch / "ours", folder):
        found.append(answer_losses(hf_folder.load_model(model).eval(), held_out, tokenizer, options.max_length, fold))
    return found[0], found[1]


@torch.no_grad()
def answer_losses(model: Any, rows: list[DialogueRow], tokenizer: Any, max_length: int, fold: int) -> dict[str, float]:
    """Return each dialogue's mean loss over the tokens of its answers."""
    losses = {}
    for number, row in enumerate(rows):
        ids, mask = encode_dialogue(row["messages"], tokenizer)
        if len(ids) <= max_length:
            tokens, wanted = torch.tensor([ids]), torch.tensor(mask)[1:]
            logits = model(tokens)[0, :-1].float()
            every = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
            losses[f"{fold}.{number}"] = float(every[wanted].mean())
    return losses


# --- the two sides -----------------------------------------------------------------------------------------------

QUIET = ["run.name=x", "checkpoint=x", "train=[x]"]


def settings(program: str, lr: float) -> OptimConfig:
    """Return a program's optimizer settings at a rate."""
    more = ["kind=helpfulness"] if program == "reward" else []
    return OptimConfig(**{**compose_dict(program, [*QUIET, *more])["optim"], "lr": lr})


def save(engine: Engine, folder: Path, start: Path, scalar: bool) -> None:
    """Write the engine's model as a folder that transformers loads."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(engine.module.config.to_hf(scalar_head=scalar)))
    weights = {name: value.detach().float().contiguous() for name, value in engine.module.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    hf_tokenizer.save(hf_folder.load_tokenizer(start), folder)


def peer(
    options: argparse.Namespace,
    task: str,
    scratch: Path,
    rows: list[dict[str, list[int]]],
    optim: OptimConfig,
    steps: int,
    batch: int,
    seed: int,
) -> Path:
    """Have TRL train from the same start on these rows; return the folder of its model."""
    path = plan(task, scratch, rows, optim, steps, batch, seed, options.max_length)
    with (scratch / "log").open("w") as log:
        command = [options.peer, str(PEER), str(path)]
        alone = {
            k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        }  # ours are not its
        failed = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=alone).returncode
    if failed:
        raise SystemExit((scratch / "log").read_text()[-3000:])
    return scratch / "theirs"


def plan(
    task: str,
    folder: Path,
    rows: Iterable[dict[str, list[int]]],
    optim: OptimConfig,
    steps: int,
    batch: int,
    seed: int,
    max_length: int,
) -> Path:
    """Write what trl_side.py is to do with the model in folder/start, and on which rows; return the file."""
    with (folder / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    content = {
        "task": task,
        "start": str(folder / "start"),
        "rows": str(folder / "rows.jsonl"),
        "out": str(folder / "theirs"),
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "center": CENTRED,
        "rates": [optim.lr_at(step, steps) for step in range(steps)],
        "betas": optim.betas,
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
        "grad_clip": optim.grad_clip,
        "max_length": max_length,
    }
    (folder / "plan.json").write_text(json.dumps(content))
    return folder / "plan.json"


# --- results -----------------------------------------------------------------------------------------------------


def told(ours: Values, theirs: Values) -> str:
    """Return both means and their paired difference in words."""
    difference = paired_interval(ours, theirs)
    assert difference is not None and difference.low is not None and difference.high is not None
    means = [mean_interval([sum(v) / len(v) for v in side.values()]).mean for side in (ours, theirs)]
    return f"ours {means[0]:.4f}, TRL {means[1]:.4f}, difference {difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def record(options: argparse.Namespace, ours: Values, theirs: Values) -> None:
    """Append a line."""
    difference = paired_interval(ours, theirs)
    assert difference is not None
    sides = {
        name: mean_interval([sum(v) / len(v) for v in side.values()])
        for name, side in (("ours", ours), ("trl", theirs))
    }
    versions = subprocess.run(
        [options.peer, "-c", "import trl, transformers; print(trl.__version__, transformers.__version__)"],
        capture_output=True,
        text=True,
    ).stdout.split()
    line = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "task": options.task,
        "source": Path((options.pairs or options.dialogues).partition(":")[2]).name,
        "settings": {key: getattr(options, key) for key in ("seeds", "folds", "lr", "epochs", "batch", "max_length")},
        "versions": dict(zip(("trl", "transformers"), versions, strict=False)),
        **{name: interval.as_dict() for name, interval in sides.items()},
        "difference": difference.as_dict(),
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line))


if __name__ == "__main__":
    sys.exit(main())
