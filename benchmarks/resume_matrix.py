"""Resume every ZeRO stage and number of ranks at every other: how far do the next losses lie from the uninterrupted run's?

    python benchmarks/resume_matrix.py              # stages 0-3 on 1, 2 and 4 ranks: 144 pairs
    python benchmarks/resume_matrix.py --offload    # also with optimizer states, and parameters, in host memory: 441 pairs
    python benchmarks/resume_matrix.py --dtype bfloat16

A tiny model trains STEPS steps at each stage, on each number of ranks, through the loop that every program uses; it saves,
and goes on for NEXT steps: the reference. Then each checkpoint is restored at each stage and number of ranks, into a
model that began otherwise, with other micro-batches, and takes the same steps. Held against the reference: the losses,
the gradient norms, the samples of every step, and weights, masters and moments right after restoring, bit by bit. A line
a run goes to results/resume_matrix.jsonl.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import json
import os
import random
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "DS_ACCELERATOR": "cpu"}

import sentencepiece
import torch
from chain import RESULTS, ROOT, commit, machine

sys.path.insert(0, str(ROOT))
from launch.processes import _environments
from llamatrain import checkpoint, distributed, hf_folder, saving
from llamatrain.data.dialogues import DialogueBatches
from llamatrain.engine.learning import Engine
from llamatrain.fit import train_step
from llamatrain.losses import language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.settings import OptimConfig, ZeroConfig
from llamatrain.tokenizer import Tokenizer

RANKS = (1, 2, 4)
ROWS, STEPS, NEXT = 8, 4, 5
TOLERANCE = 1e-5
MODES = {
    "stage0": (0, False, False),
    "stage1": (1, False, False),
    "stage2": (2, False, False),
    "stage3": (3, False, False),
}
OFFLOADED = {"stage1o": (1, True, False), "stage2o": (2, True, False), "stage3o": (3, True, True)}
OPTIM = OptimConfig(1e-2, [0.9, 0.95], 1e-5, 0.1, 0.5, "cosine", 2, 0.0, 0.1)
# Widths that four ranks cannot divide equally: the parts of the last ones are padded.
MODEL = ModelConfig(
    vocab_size=300,
    dim=30,
    n_layers=2,
    n_heads=3,
    n_kv_heads=1,
    hidden_dim=50,
    max_seq_len=64,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tie_embeddings=False,
    init_std=0.02,
    activation_checkpointing="none",
)
WORDS = [
    "the",
    "a",
    "red",
    "small",
    "old",
    "kind",
    "fox",
    "bird",
    "bear",
    "whale",
    "mouse",
    "river",
    "forest",
    "tree",
    "lives",
    "sings",
    "sleeps",
    "runs",
    "in",
    "near",
    "under",
    "and",
]

State = tuple[str, int]  # a mode and a number of ranks


class Matrix:
    """A folder with a tokenizer, and what is trained in it: `modes` at `dtype`."""

    def __init__(self, folder: Path, modes: dict[str, tuple[int, bool, bool]], dtype: str, tied: bool) -> None:
        self.folder, self.modes, self.dtype = folder, modes, dtype
        self.model = ModelConfig(**{**vars(MODEL), "tie_embeddings": tied})
        self.states: list[State] = [(mode, ranks) for ranks in RANKS for mode in modes]
        rng = random.Random(0)
        sentences = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(400)]
        pairs = zip(sentences[::2], sentences[1::2], strict=True)
        self.dialogues = [
            {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}], "source": "random"}
            for q, a in pairs
        ]
        with (folder / "tokenizer.model").open("wb") as model:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(sentences),
                model_writer=model,
                model_type="bpe",
                vocab_size=MODEL.vocab_size,
                byte_fallback=True,
                num_threads=1,
                minloglevel=2,
            )
        self.tokenizer = Tokenizer(folder)

    def engine(self, mode: str, seed: int) -> Engine:
        """Return a fresh engine."""
        stage, optimizer, parameters = self.modes[mode]
        zero = ZeroConfig(stage, self.dtype, optimizer, parameters)
        return Engine(Transformer(self.model, seed), OPTIM, zero, STEPS + NEXT)

    def batches(self, number: int) -> DialogueBatches:
        """Return the batches; micro-batches go through what divides a rank's share, by `number`."""
        ranks = distributed.world_size()
        sizes = [size for size in (1, 2, 4, 8) if ROWS // ranks % size == 0]
        return DialogueBatches(
            self.dialogues,
            self.tokenizer,
            max_length=48,
            batch_size=ROWS,
            micro_batch_size=sizes[number % len(sizes)],
            seed=0,
            rank=distributed.rank(),
            world_size=ranks,
        )

    def go_on(self, engine: Engine, batches: DialogueBatches) -> dict[str, list[Any]]:
        """Take the steps after the checkpoint; return losses, norms and a hash of each step's samples."""
        found: dict[str, list[Any]] = {"loss": [], "norm": [], "samples": []}
        for step in range(STEPS, STEPS + NEXT):
            micro_batches = batches.batch_at(step)
            rows = distributed.gather_objects([batch["input_ids"].numpy().tobytes() for batch in micro_batches])
            found["samples"].append(hashlib.sha256(b"".join(b"".join(part) for part in rows)).hexdigest())
            metrics = train_step(engine, micro_batches, language_model_loss)
            found["loss"].append(metrics["train/loss"])
            found["norm"].append(metrics["train/grad_norm"])
        return found

    def make_references(self) -> None:
        """Train every mode on these ranks: a checkpoint, and what came after it."""
        for number, mode in enumerate(self.modes):
            name = label((mode, distributed.world_size()))
            engine, batches = self.engine(mode, seed=0), self.batches(number)
            for step in range(STEPS):
                train_step(engine, batches.batch_at(step), language_model_loss)
            saving.save(self.folder / name, {"model": engine}, self.tokenizer, {"step": STEPS}, {})
            found = self.go_on(engine, batches)
            if distributed.is_main():
                (self.folder / f"{name}.json").write_text(json.dumps(found))

    def resume_all(self, pairs: list[tuple[State, State]]) -> None:
        """Resume the pairs whose second is on this number of ranks; write what came of it."""
        ranks, results = distributed.world_size(), []
        for number, mode in enumerate(self.modes):
            batches = self.batches(number + 1)
            for source in [a for a, b in pairs if b == (mode, ranks)]:
                engine, folder = self.engine(mode, seed=7), self.folder / label(source)
                checkpoint.restore(folder, {"model": engine})
                engine.state.set_step(STEPS)
                exact = is_exact(engine, folder)
                found = self.go_on(engine, batches)
                reference = json.loads((self.folder / f"{label(source)}.json").read_text())
                results.append(
                    {
                        "from": label(source),
                        "to": label((mode, ranks)),
                        "loss": farthest(found["loss"], reference["loss"]),
                        "norm": farthest(found["norm"], reference["norm"]),
                        "samples": found["samples"] == reference["samples"],
                        "exact": exact,
                    }
                )
        if distributed.is_main():
            (self.folder / f"resumed{ranks}.json").write_text(json.dumps(results))


def label(state: State) -> str:
    """Return a state's name: zero2x4 is stage 2 on four ranks."""
    return f"{state[0]}x{state[1]}"


def farthest(found: list[float], reference: list[float]) -> float:
    """Return the largest difference."""
    return max(abs(a - b) for a, b in zip(found, reference, strict=True))


def is_exact(engine: Engine, folder: Path) -> bool:
    """Tell whether the engine holds the checkpoint bit by bit: weights, masters, moments and AdamW's step."""
    saved = dict(hf_folder.load_weights(folder))
    exact = all(torch.equal(weight, saved[name]) for name, weight in engine.state.parameters_by_name())
    where = checkpoint._optimizer_tensors(folder / "trainer" / "model")
    held = {name: tensor.clone() for name, tensor in engine.state.optimizer_state_by_name()}
    for name, path in where.items():
        with checkpoint.safe_open(path, framework="pt") as file:
            exact = exact and torch.equal(held[name], file.get_tensor(name))
    return exact and held.keys() == where.keys() and {float(s["step"]) for s in engine._adamw.state.values()} == {STEPS}


def every_pair(states: list[State]) -> list[tuple[State, State]]:
    """Return all pairs, a state with itself too."""
    return [(a, b) for a in states for b in states]


def covering_pairs(states: list[State]) -> list[tuple[State, State]]:
    """Return as many pairs as states: every state is resumed from once and to once, always on other ranks."""
    modes = list(dict.fromkeys(mode for mode, _ in states))
    pairs = []
    for number, mode in enumerate(modes):
        for turn, ranks in enumerate(RANKS):
            target = modes[(number + 1 + turn) % len(modes)], RANKS[(turn + 1) % len(RANKS)]
            pairs.append(((mode, ranks), target))
    return pairs


# --- processes -----------------------------------------------------------------------------------------------------


def launch(ranks: int, work: Callable[[], None]) -> None:
    """Do the work on so many ranks, forks of this process, which has imported all and run no tensor operation."""
    running = set()
    for environ in _environments(ranks):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.environ |= environ
                torch.set_num_threads(1)
                distributed.setup()
                work()
                distributed.leave()
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        running.add(pid)
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status:
            for other in running:
                os.kill(other, signal.SIGKILL)
            raise SystemExit(f"a rank of {ranks} failed")


def main() -> int:
    """Run, record, print; 1 where a loss is too far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", choices=["every", "covering"], default="every")
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--tied", action="store_true", help="one matrix is embedding and head")
    parser.add_argument("--record", type=Path, default=RESULTS / "resume_matrix.jsonl")
    options = parser.parse_args()
    for name in ("deepspeed", "deepspeed.runtime.zero", "torch._dynamo"):
        importlib.import_module(name)
    gc.freeze()  # ZeRO-3 collects garbage in every start; forks need not look through what is imported
    modes = MODES | OFFLOADED if options.offload else MODES
    modes = {name: mode for name, mode in modes.items() if options.dtype == "float32" or mode[0] > 0}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder), modes, options.dtype, options.tied)
        pairs = (every_pair if options.pairs == "every" else covering_pairs)(matrix.states)
        for ranks in RANKS:
            launch(ranks, matrix.make_references)
        for ranks in RANKS:
            launch(ranks, lambda: matrix.resume_all(pairs))
        results = [row for ranks in RANKS for row in json.loads((Path(folder) / f"resumed{ranks}.json").read_text())]
    line = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "seconds": round(time.perf_counter() - started, 1),
        "dtype": options.dtype,
        "pairs": len(results),
        "max_loss_difference": max(row["loss"] for row in results),
        "max_norm_difference": max(row["norm"] for row in results),
        "same_samples": all(row["samples"] for row in results),
        "same_state": all(row["exact"] for row in results),
        "results": results,
    }
    with options.record.open("a") as file:
        file.write(json.dumps(line) + "\n")
    table(line)
    good = line["same_samples"] and line["same_state"]
    return 0 if good and (options.dtype != "float32" or line["max_loss_difference"] <= TOLERANCE) else 1


def table(line: dict[str, Any]) -> None:
    """Print the largest |loss difference| of each pair in millionths, rows resumed from, columns to; and the worst."""
    cells = {(row["from"], row["to"]): f"{row['loss'] * 1e6:.2f}" for row in line["results"]}
    sources, targets = (list(dict.fromkeys(name)) for name in zip(*cells, strict=True))
    print(f"|loss difference| x 1e6 | {' | '.join(targets)} |")
    print("|" + "---|" * (len(targets) + 1))
    for source in sources:
        print(f"| {source} | {' | '.join(cells.get((source, target), '') for target in targets)} |")
    print({key: value for key, value in line.items() if key != "results"})


if __name__ == "__main__":
    sys.exit(main())
