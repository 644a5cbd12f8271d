"""The planner's memory against tensors that are alive: states by ZeRO stage and number of ranks, activations, PPO's five models.

    python benchmarks/planned_memory.py
    python benchmarks/planned_memory.py --sizes 1M 15M --ranks 1 2

Every rank notes each tensor that is made (tests/memory.py) and what of them is alive: states between a backward pass and the
update, activations between a forward and its backward pass. Buckets of DeepSpeed are left out: on a CPU they are
addresses, not memory. `--table` prints the recorded lines.
"""

from __future__ import annotations

import argparse
import dataclasses
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
    parser.add_argument("--worker", help="a rank: the size that it measures")
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return 0
    for size in options.sizes if not options.table else ():
        for ranks in options.ranks:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            command = [sys.executable, *launcher, str(Path(__file__).resolve()), "--worker", size]
            shown = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
            about = {"size": size, "ranks": ranks, "commit": commit(), "machine": machine()}
            line = {**about, "date": datetime.now(UTC).date().isoformat(), "rows": rows}
            with RECORD.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{size} on {ranks}: {len(rows)} rows", flush=True)
    table([json.loads(line) for line in RECORD.read_text().splitlines()])
    return 0


def table(lines: list[dict[str, Any]]) -> None:
    """Print the states' MB per rank, and the largest deviations, as Markdown."""
    print("| size | ranks | what | " + " | ".join(f"{dtype}, stage {stage}" for stage, dtype in SETTINGS) + " |")
    print("|---|---|---|" + "---|" * len(SETTINGS))
    for line in lines:
        for what in dict.fromkeys(row["what"] for row in line["rows"]):
            cells = []
            for setting in SETTINGS:
                found = [r for r in line["rows"] if (r["stage"], r["dtype"]) == setting and r["what"] == what]
                cells.append("".join(f"{cell(row)}" for row in found))
            print(f"| {line['size']} | {line['ranks']} | {what} | {' | '.join(cells)} |")


def cell(row: dict[str, Any]) -> str:
    """Return what was measured in MB, and the prediction's deviation in bytes or, above a thousandth, as a share."""
    off = row["predicted"] - row["measured"]
    shown = f"{off:+,.0f} B" if abs(off) < row["measured"] / 1000 else f"{off / row['measured']:+.1%}"
    return f"{row['measured'] / 1e6:,.1f} ({shown})"


def work(size: str) -> None:
    """Measure all settings of a size as one rank; rank 0 prints, of each, the rank that deviates most."""
    import torch

    from llamatrain import distributed

    torch.set_num_threads(1)
    distributed.setup()
    for stage, dtype in SETTINGS:
        for what, measured, predicted in (*training(size, stage, dtype), *five(size, stage, dtype)):
            of_ranks = distributed.gather_objects(measured)
            if distributed.is_main():
                worst = max(of_ranks, key=lambda found: abs(found - predicted))
                row = {"stage": stage, "dtype": dtype, "what": what, "measured": worst, "predicted": round(predicted)}
                print(json.dumps(row), flush=True)
    distributed.leave()


def shape(size: str) -> Any:
    """Return the shape of a size."""
    from llamatrain.model.config import ModelConfig

    name, replaced = SIZES[size]
    values = yaml.safe_load((ROOT / "configs" / "model" / f"{name}.yaml").read_text())
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    return ModelConfig(**{key: value for key, value in {**values, **replaced}.items() if key in known})


def training(size: str, stage: int, dtype: str) -> Iterator[tuple[str, int, float]]:
    """Yield (what, bytes alive, bytes predicted) of a model in training."""
    from llamatrain import distributed, footprint
    from llamatrain.engine.models import build
    from llamatrain.losses import language_model_loss
    from llamatrain.model.transformer import Transformer
    from llamatrain.settings import ZeroConfig
    from tests.memory import Alive

    config, zero, ranks = shape(size), ZeroConfig(stage, dtype, False, False), distributed.world_size()
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
    held = footprint.trained(config, zero, ranks, device="cpu")
    yield "states", sum(states.values()), held.device
    made = footprint.loss_gradients(config, dtype, TOKENS)
    yield "activations", kept, TOKENS * footprint.kept(config, zero, TOKENS, False, "cpu") + made


def five(size: str, stage: int, dtype: str) -> Iterator[tuple[str, int, float]]:
    """Yield (what, bytes alive, bytes predicted) of PPO's models, of which at stage 3 all are sharded."""
    from llamatrain import distributed, footprint
    from llamatrain.engine.models import build
    from llamatrain.losses import language_model_loss
    from llamatrain.model.scalar_head import ScalarModel
    from llamatrain.model.transformer import Transformer
    from llamatrain.settings import ZeroConfig
    from rlhf.ppo_config import MODELS
    from tests.memory import Alive

    config, zero, ranks = shape(size), ZeroConfig(stage, dtype, False, False), distributed.world_size()
    with Alive([]) as alive:
        policy = stepped(build(lambda: Transformer(config, 0), zero), zero)
        critic = stepped(build(lambda: ScalarModel(config, 0), zero), zero)
        read = [build(lambda kind=kind: kind(config, 0), zero) for kind in (Transformer, ScalarModel, ScalarModel)]
        for engine in (policy, critic):
            loss = language_model_loss if engine is policy else scored
            engine.backward(loss(engine, rows())[0] / TOKENS)
        held = alive.bytes(apart=footprint.BUCKET)
    del read
    planned = footprint.models(config, zero, ranks, MODELS, "cpu")
    yield "PPO's five", held, planned.states.device + planned.read


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
