"""How long a checkpoint takes, written and read."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parts import ON_GPU, figure, shape, wait
from speed import engine_of
from zero import save

from llamatrain import checkpoint
from llamatrain.model.transformer import Transformer


def check() -> Iterator[dict[str, Any]]:
    """Write a checkpoint, and read it into another engine."""
    size = {"dim": 2048, "n_layers": 16, "n_heads": 16, "n_kv_heads": 16, "hidden_dim": 5504, "vocab_size": 32_000}
    config = shape("full", **(size if ON_GPU else {}))
    place = Path(tempfile.mkdtemp())
    engine = engine_of(config, Transformer)
    wait()
    started = time.perf_counter()
    save(engine, place / "saved")
    wrote = time.perf_counter() - started
    held = sum(path.stat().st_size for path in (place / "saved").rglob("*") if path.is_file())
    yield figure("parameters, millions", config.parameters / 1e6)
    yield figure("size, GB", held / 1e9)
    yield figure("written, seconds", wrote)
    started = time.perf_counter()
    checkpoint.restore(checkpoint.resolve(place / "saved"), {"model": engine})
    wait()
    yield figure("verified and read, seconds", time.perf_counter() - started)
    shutil.rmtree(place)
