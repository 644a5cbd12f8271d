"""Count what ranks send one another in a training step, by ZeRO stage and micro-batches: collectives and their bytes.

    python benchmarks/collectives.py                # stages 0-3, 1, 4 and 16 micro-batches, on two ranks
    python benchmarks/collectives.py --reading      # a model that PPO only reads at stage 3: sharded, and whole

A model of 1.1M parameters takes steps through the loop that every program uses; what is counted is what DeepSpeed and the
project hand to torch.distributed in the second step. A reduction's bytes are those of the tensor that is reduced, a
gathering's those of what is gathered. A line a run goes to results/collectives.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from chain import RESULTS, ROOT, commit, machine

sys.path.insert(0, str(ROOT))
from llamatrain import distributed
from llamatrain.data.packing import with_weight
from llamatrain.engine.learning import Engine
from llamatrain.engine.models import build, frozen
from llamatrain.fit import train_step
from llamatrain.losses import Batch, language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.settings import OptimConfig, ZeroConfig

MODEL = ModelConfig(1024, 128, 4, 4, 4, 352, 64, 10000.0, 1e-5, False, 0.02, "none")
OPTIM = OptimConfig(1e-3, [0.9, 0.95], 1e-5, 0.1, 1.0, "cosine", 2, 0.0, 0.1)
REDUCING = ("all_reduce", "reduce", "reduce_scatter_tensor", "reduce_scatter", "all_to_all_single")
GATHERING = ("all_gather_into_tensor", "all_gather", "broadcast")
LEAST = 1024  # numbers: smaller ones are norms, counts and flags
SETTINGS = [("float32", None), ("bfloat16", None), ("bfloat16", "float32")]


def micro_batch(seed: int) -> Batch:
    """Return a row of random tokens."""
    ids = torch.randint(3, 1024, (1, 64), generator=torch.Generator().manual_seed(seed))
    ones = torch.ones_like(ids)
    places = torch.arange(64)[None]
    return with_weight({"input_ids": ids, "position_ids": places, "segment_ids": ones, "loss_mask": places > 0})


def count(found: list[tuple[str, int, str]]) -> None:
    """Note every collective on large tensors: its name, bytes and precision."""

    def watch(name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)]
            tensors += [t for listed in args if isinstance(listed, list) for t in listed if torch.is_tensor(t)]
            largest = max(tensors, key=torch.Tensor.numel)
            if largest.numel() >= LEAST:
                found.append((name, largest.numel() * largest.itemsize, str(largest.dtype).removeprefix("torch.")))
            return real(*args, **kwargs)

        return call

    for name in (*REDUCING, *GATHERING):
        setattr(dist, name, watch(name, getattr(dist, name)))


def measure() -> list[dict[str, Any]]:
    """Return a row per precision, stage and number of micro-batches."""
    distributed.setup()
    found: list[tuple[str, int, str]] = []
    count(found)
    rows = []
    for dtype, reduce_dtype in SETTINGS:
        for stage in range(dtype == "bfloat16", 4):
            for number in (1, 4, 16):
                settings = ZeroConfig(stage, dtype, False, False, reduce_dtype)
                engine = Engine(build(partial(Transformer, MODEL, 0), settings), OPTIM, settings, 10)
                for step in range(2):
                    found.clear()
                    batches = [micro_batch(100 * step + 10 * distributed.rank() + i) for i in range(number)]
                    train_step(engine, batches, language_model_loss)
                row: dict[str, Any] = {"dtype": dtype, "reduce_dtype": reduce_dtype or dtype, "stage": stage}
                row["micro_batches"] = number
                for kind, names in (("reduced", REDUCING), ("gathered", GATHERING)):
                    own = [one for one in found if one[0] in names]
                    row[kind] = len(own)
                    row[f"{kind}_bytes_per_parameter"] = round(sum(o[1] for o in own) / MODEL.parameters, 2)
                    row[f"{kind}_by"] = dict(Counter(f"{name} {precision}" for name, _, precision in own))
                rows.append(row)
    distributed.leave()
    return rows


def measure_reading() -> list[dict[str, Any]]:
    """Return a row per number of micro-batches for a model that PPO only reads at stage 3: sharded, and whole."""
    distributed.setup()
    found: list[tuple[str, int, str]] = []
    count(found)
    zero, drawn, rows = ZeroConfig(3, "bfloat16", False, False), Transformer(MODEL, 0).bfloat16().eval(), []
    sharded = frozen(build(partial(Transformer, MODEL, None), zero), list(drawn.named_parameters()), zero)
    for kept, model in (("sharded", sharded), ("whole", drawn)):
        for number in (1, 4, 16):
            found.clear()
            for seed in range(number):
                batch = micro_batch(seed)
                with torch.no_grad():
                    model(batch["input_ids"], position_ids=batch["position_ids"])
            own = [one for one in found if one[0] in GATHERING]
            size = round(sum(one[1] for one in own) / MODEL.parameters, 2)
            rows.append(
                {"kept": kept, "micro_batches": number, "gathered": len(own), "gathered_bytes_per_parameter": size}
            )
    distributed.leave()
    return rows


def main() -> None:
    """Launch the ranks, or as one of them measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--reading", action="store_true")
    parser.add_argument("--record", type=Path, default=RESULTS / "collectives.jsonl")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.ranks)]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        sys.exit(subprocess.run([sys.executable, *launcher, *sys.argv], env=environ).returncode)
    rows = measure_reading() if options.reading else measure()
    if os.environ["RANK"] == "0":
        about = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine()}
        line = {**about, "command": shlex.join(["python", *sys.argv]), "ranks": options.ranks, "rows": rows}
        with options.record.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for row in rows:
            print(*row.values(), sep=" | ")


if __name__ == "__main__":
    main()
