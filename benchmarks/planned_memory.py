"""The planner's memory against tensors that are alive: states by ZeRO stage and number of ranks, activations, PPO's five models.

    python benchmarks/planned_memory.py
    python benchmarks/planned_memory.py --sizes 1M 15M --ranks 1 2 --dtypes float32 --what training

Every rank notes each tensor that is made (tests/memory.py) and what of them is alive: states between a backward pass and the
update, activations between a forward and its backward pass. Buckets of DeepSpeed are left out: on a CPU they are
addresses, not memory. What does not fit the memory that is free is left out. `--table` prints what is recorded, of each figure
the last.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from chain import RESULTS, ROOT, commit, machine

sys.path.insert(0, str(ROOT))

RECORD = RESULTS / "planned_memory.jsonl"
TOKENS = 64  # of a row; a micro-batch has one
# Name -> shape and what of it is replaced: of about so many parameters.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "1M": ("tiny", {"vocab_size": 1024}),
    "15M": ("stories", {"vocab_size": 32_000, "tie_embeddings": True}),
    "110M": ("stories110m", {"vocab_size": 32_000, "tie_embeddings": True}),
}
SETTINGS = [(0, "float32"), *((stage, dtype) for dtype in ("float32", "bfloat16") for stage in (1, 2, 3))]


def main() -> int:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--table", action="store_true", help="only print the recorded lines")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    parser.add_argument("--what", nargs="+", choices=("training", "five"), default=["training", "five"])
    parser.add_argument(
        "--worker", nargs="+", help="a rank: what it measures, of which size, the precision and the stages"
    )
    options = parser.parse_args()
    if options.worker:
        what, size, dtype, *stages = options.worker
        work(training if what == "training" else five, size, [(int(stage), dtype) for stage in stages])
        return 0
    if not options.table:
        for size, ranks in itertools.product(options.sizes, options.ranks):
            for what, dtype, apart in itertools.product(options.what, options.dtypes, (False, True)):
                about = {"size": size, "ranks": ranks, "commit": commit(), "machine": machine()}
                rows = measured(what, size, ranks, dtype, apart)
                line = {**about, "date": datetime.now(UTC).date().isoformat(), "rows": rows}
                with RECORD.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{what}, {size} on {ranks} in {dtype}: {len(rows)} rows", flush=True)
    table([json.loads(line) for line in RECORD.read_text().splitlines()])
    return 0


def measured(what: str, size: str, ranks: int, dtype: str, apart: bool) -> list[dict[str, Any]]:
    """Start the ranks that measure a size in a precision; return their rows.

    Stage 3 `apart` from the others, as DeepSpeed does not let go of an engine there.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    # Freed tensors go back to the system, whatever their size.
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    stages = [str(stage) for stage, other in SETTINGS if other == dtype and (stage == 3) == apart]
    command = [sys.executable, *launcher, str(Path(__file__).resolve()), "--worker", what, size, dtype, *stages]
    shown = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [json.loads(line) for line in shown.splitlines() if line.startswith("{")]


def table(lines: list[dict[str, Any]]) -> None:
    """Print the states' MB per rank, and the largest deviations, as Markdown."""
    print("| size | ranks | what | " + " | ".join(f"{dtype}, stage {stage}" for stage, dtype in SETTINGS) + " |")
    print("|---|---|---|" + "---|" * len(SETTINGS))
    found = {
        (line["size"], line["ranks"], row["what"], row["stage"], row["dtype"]): row
        for line in lines
        for row in line["rows"]
    }
    for size, ranks, what in itertools.product(SIZES, (1, 2, 4), dict.fromkeys(key[2] for key in found)):
        cells = [found.get((size, ranks, what, *setting)) for setting in SETTINGS]
        if any(cells):
            shown = " | ".join("" if row is None else cell(size, ranks, row) for row in cells)
            print(f"| {size} | {ranks} | {what} | {shown} |")


def cell(size: str, ranks: int, row: dict[str, Any]) -> str:
    """Return what was measured in MB, and the arithmetic's deviation in bytes or, above a thousandth, as a share."""
    off = predicted(size, ranks, row["stage"], row["dtype"], row["what"]) - row["measured"]
    shown = f"{off:+,.0f} B" if abs(off) < row["measured"] / 1000 else f"{off / row['measured']:+.1%}"
    return f"{row['measured'] / 1e6:,.1f} ({shown})"


def predicted(size: str, ranks: int, stage: int, dtype: str, what: str) -> float:
    """Return the bytes that the arithmetic says."""
    from llamatrain import footprint
    from llamatrain.settings import ZeroConfig
    from rlhf.ppo_config import MODELS

    config, zero = shape(size), ZeroConfig(stage, dtype, False, False)
    if what == "states":
        return footprint.trained(config, zero, ranks, device="cpu").device
    if what == "activations":
        made = footprint.loss_gradients(config, dtype, TOKENS)
        return TOKENS * footprint.kept(config, zero, ranks, TOKENS, False, "cpu") + made
    planned = footprint.models(config, zero, ranks, MODELS, "cpu")  # of which stage 3 shards all
    return planned.states.device + planned.read


def work(measure: Any, size: str, settings: list[tuple[int, str]]) -> None:
    """Measure some settings of a size as one rank; rank 0 prints each figure of the rank with the most."""
    import torch
    import torch._dynamo  # a dispatch mode asks for it, and fails to import it while DeepSpeed has torch's constructors replaced

    from llamatrain import distributed

    torch.set_num_threads(1)
    distributed.setup()
    for stage, dtype in settings:
        for what, held in measure(size, stage, dtype):
            of_ranks = distributed.gather_objects(held)
            if distributed.is_main():
                row = {"stage": stage, "dtype": dtype, "what": what, "measured": max(of_ranks)}
                print(json.dumps(row), flush=True)
    distributed.leave()


def shape(size: str) -> Any:
    """Return the shape of a size."""
    from llamatrain.model.config import ModelConfig

    name, replaced = SIZES[size]
    values = yaml.safe_load((ROOT / "configs" / "model" / f"{name}.yaml").read_text())
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    return ModelConfig(**{key: value for key, value in {**values, **replaced}.items() if key in known})


def training(size: str, stage: int, dtype: str) -> Iterator[tuple[str, int]]:
    """Yield (what, bytes alive) of a model in training."""
    from llamatrain import distributed, footprint
    from llamatrain.engine.models import build
    from llamatrain.losses import language_model_loss
    from llamatrain.model.transformer import Transformer
    from llamatrain.settings import ZeroConfig
    from tests.memory import Alive

    config, zero, ranks = shape(size), ZeroConfig(stage, dtype, False, False), distributed.world_size()
    if not fits(predicted(size, ranks, stage, dtype, "states"), ranks):
        return
    with Alive([]) as alive:
        engine = stepped(build(lambda: Transformer(config, 0), zero), zero)
        engine.backward(language_model_loss(engine, rows())[0] / TOKENS)
        states = alive.held(apart=footprint.BUCKET)
        batch = rows()
        loss = language_model_loss(engine, batch)[0]
        # At stage 3 weights stay gathered for the backward pass: they are none of the layers' activations.
        others = {tensor.untyped_storage()._cdata for tensor in (*engine.module.parameters(), *batch.values())}
        after = alive.held(apart=footprint.BUCKET)
        kept = sum(size for memory, size in after.items() if memory not in states and memory not in others)
        engine.backward(loss / TOKENS)
    let_go(engine)
    yield "states", sum(states.values())
    yield "activations", kept


def five(size: str, stage: int, dtype: str) -> Iterator[tuple[str, int]]:
    """Yield (what, bytes alive) of PPO's models, of which at stage 3 all are sharded."""
    from llamatrain import distributed, footprint
    from llamatrain.engine.models import build
    from llamatrain.losses import language_model_loss
    from llamatrain.model.scalar_head import ScalarModel
    from llamatrain.model.transformer import Transformer
    from llamatrain.settings import ZeroConfig
    from tests.memory import Alive

    config, zero, ranks = shape(size), ZeroConfig(stage, dtype, False, False), distributed.world_size()
    if not fits(predicted(size, ranks, stage, dtype, "PPO's five"), ranks):
        return
    with Alive([]) as alive:
        policy = stepped(build(lambda: Transformer(config, 0), zero), zero)
        critic = stepped(build(lambda: ScalarModel(config, 0), zero), zero)
        read = [build(lambda kind=kind: kind(config, 0), zero) for kind in (Transformer, ScalarModel, ScalarModel)]
        for engine in (policy, critic):
            loss = language_model_loss if engine is policy else scored
            engine.backward(loss(engine, rows())[0] / TOKENS)
        held = alive.bytes(apart=footprint.BUCKET)
    del read
    let_go(policy, critic)
    yield "PPO's five", held


def fits(each: float, ranks: int) -> bool:
    """Tell whether the memory that is free holds so many bytes on each rank, and as much again while they are made."""
    from llamatrain import distributed
    from llamatrain.memory import free_memory

    enough: bool = distributed.broadcast_object(2 * each * ranks < free_memory())
    return enough


def let_go(*engines: Any) -> None:
    """Free engines, which hooks on their weights keep alive; at stage 3 DeepSpeed cannot be made to let go."""
    for engine in engines:
        if engine._ds.zero_optimization_stage() < 3:
            engine._ds.destroy()


def stepped(model: Any, zero: Any) -> Any:
    """Return an engine that has made an update, so that its moments are there."""
    from llamatrain.engine.learning import Engine
    from llamatrain.fit import train_step
    from llamatrain.losses import language_model_loss
    from llamatrain.model.scalar_head import ScalarModel
    from llamatrain.settings import OptimConfig

    optim = OptimConfig(1e-4, [0.9, 0.95], 1e-5, 0.1, 1.0, "constant", 0, 0.0, 0.1)
    engine = Engine(model, optim, zero, 10)
    train_step(engine, [rows()], scored if isinstance(model, ScalarModel) else language_model_loss)
    return engine


def rows() -> Any:
    """Return a micro-batch: a row of random tokens."""
    import torch

    ids = torch.randint(3, 1000, (1, TOKENS))
    ones = torch.ones_like(ids)
    places = {"position_ids": torch.arange(TOKENS)[None], "segment_ids": ones, "loss_mask": ones.bool()}
    return {"input_ids": ids, **places, "weight": torch.tensor(float(TOKENS))}


def scored(model: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Return a loss of a scalar model."""
    scores = model(batch["input_ids"], batch["position_ids"], batch["segment_ids"])
    return scores.float().square().sum(), {}


if __name__ == "__main__":
    sys.exit(main())
