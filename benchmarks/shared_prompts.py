"""Pairs per second of a reward model's training pass with a pair's prompt computed once, against twice, by their lengths.

    python benchmarks/shared_prompts.py (also --dims 128 384)

Tokens are random; both ways alternate. A line goes to results/shared_prompts.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from chain import commit, machine

RESULTS = Path(__file__).resolve().parent / "results" / "shared_prompts.jsonl"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from llamatrain.model.config import ModelConfig  # noqa: E402
from llamatrain.model.scalar_head import ScalarModel  # noqa: E402
from llamatrain.responses import pairs  # noqa: E402

LENGTHS = ((10, 200), (20, 130), (30, 100), (50, 50), (100, 100), (100, 30), (300, 60))  # of prompt and of an answer
PAIRS, MICRO_BATCH, CONTEXT, ROUNDS = 16, 8, 512, 3


def main() -> int:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    options = parser.parse_args()
    found = [measure(dim, prompt, answer) for dim in options.dims for prompt, answer in LENGTHS]
    about = {"date": datetime.now(UTC).date().isoformat(), "commit": commit(), "machine": machine()}
    with RESULTS.open("a") as file:
        file.write(json.dumps({**about, "found": found}) + "\n")
    return 0


def measure(dim: int, prompt: int, answer: int) -> dict[str, float]:
    """Return the share of tokens saved and how many times as fast it is, the fastest of some rounds."""
    layers = 4 if dim < 256 else 6
    shape = {"dim": dim, "n_layers": layers, "n_heads": dim // 32, "n_kv_heads": dim // 32, "hidden_dim": dim * 8 // 3}
    rest = {"rope_theta": 1e4, "norm_eps": 1e-5, "tie_embeddings": False, "init_std": 0.02}
    model = ScalarModel(
        ModelConfig(vocab_size=1024, max_seq_len=CONTEXT, activation_checkpointing="none", **shape, **rest), seed=0
    )
    made = make(prompt, answer)
    seconds: dict[float, list[float]] = {0.0: [], 1.0: []}
    for _ in range(ROUNDS):
        for least in seconds:  # share always, share never
            pairs.WORTH_SHARING = least
            seconds[least].append(train(model, made))
    saved = sum(map(pairs.shared_tokens, made)) / sum(map(len, made))
    ratio = min(seconds[1.0]) / min(seconds[0.0])
    print(
        f"dim {dim}, prompt {prompt}, answer {answer}: {saved:.0%} of the tokens saved, {ratio:.2f} times as fast",
        flush=True,
    )
    return {"dim": dim, "prompt": prompt, "answer": answer, "saved": round(saved, 3), "speed": round(ratio, 3)}


def make(prompt: int, answer: int) -> list[pairs.Pair]:
    """Return pairs of random tokens, the answers between half and one and a half times as long as said."""
    random = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return random.integers(3, 1000, count).astype(np.int32)

    made = []
    for row in range(PAIRS):
        asked = tokens(prompt)
        sides = [np.append(asked, tokens(int(random.integers(answer // 2, answer * 3 // 2)))) for _ in range(2)]
        made.append(pairs.Pair(*sides, None, None, None, False, "made", row))
    return made


def train(model: ScalarModel, made: Sequence[pairs.Pair]) -> float:
    """Return the seconds of a forward and backward pass over all pairs."""
    started = time.perf_counter()
    for first in range(0, len(made), MICRO_BATCH):
        pairs.scores_at_ends(model, pairs.collate_pairs(made[first : first + MICRO_BATCH], CONTEXT)).sum().backward()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
