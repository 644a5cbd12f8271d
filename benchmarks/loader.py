"""Seconds from opening a corpus to its first batch, by the number of its shards: it should not grow.

    python benchmarks/loader.py --shards 10 1000 10000

The corpora are made of random tokens in a temporary folder. A line goes to results/loader.jsonl.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "loader.jsonl"
sys.path.insert(0, str(ROOT))

from llamatrain.data import shards  # noqa: E402
from llamatrain.data.sequences import TokenBatches  # noqa: E402

TOKENS = 4096  # a shard


def main() -> int:
    """Make corpora, open each some times, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[10, 1000, 10_000])
    options = parser.parse_args()
    seconds = {}
    for count in options.shards:
        with tempfile.TemporaryDirectory() as folder:
            corpus = make(Path(folder), count)
            seconds[count] = [round(ready(corpus), 4) for _ in range(5)]
        print(f"{count:,} shards: {statistics.median(seconds[count]) * 1000:.1f} ms to the first batch", flush=True)
    line = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "seconds": seconds,
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return 0


def make(folder: Path, count: int) -> Path:
    """Write a corpus part of so many shards of random tokens."""
    source = folder / "documents"
    source.mkdir()
    tokens = np.random.default_rng(0).integers(3, 32000, TOKENS).astype(np.uint16)
    for number in range(count):
        (source / f"{number:08d}.tokens").write_bytes(tokens.tobytes())
    entries = [{"name": f"{number:08d}", "tokens": TOKENS, "documents": 1, "files": {}} for number in range(count)]
    index = shards.write_index(source, entries)
    entry = shards.Source("documents", 1.0, "", count * TOKENS, count, 1, 1, count, index)
    shards.write_manifest(folder, shards.Manifest("uint16", 32000, 1, 2, "", [entry]))
    return folder


def ready(corpus: Path) -> float:
    """Return the seconds to open the corpus and make its first batch."""
    started = time.perf_counter()
    TokenBatches(corpus, seq_len=2048, batch_size=16, micro_batch_size=16, seed=0).batch_at(0)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
