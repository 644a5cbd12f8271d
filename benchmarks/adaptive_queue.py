"""Does it help to rate the pairs first of which a reward model is least sure? Accuracy for equal numbers of ratings.

    python benchmarks/adaptive_queue.py runs/adaptive_queue --demo runs/demo --seeds 0 1 2

On the toy world: the comparisons of a finished demo with what its annotators say of them. Per seed a model is trained on
`--start` ratings drawn at random; each strategy then chooses what is rated next, twice, so that the ratings double each time,
and trains anew from the chat model on all that it has:

    random        in random order
    gap           the pairs whose two scores lie nearest to each other
    disagreement  the pairs of whose gap two models, each trained on one half of the ratings, say the most different things

Accuracy is that on the demo's held-out preferences. A line a seed goes to results/adaptive_queue.jsonl. Each training is a run:
the same command goes on where it was interrupted, and a seed that has its line is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "adaptive_queue.jsonl"
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from llamatrain import atomic, hf_folder  # noqa: E402
from llamatrain.config.compose import compose  # noqa: E402
from llamatrain.data.rows import write_rows  # noqa: E402
from llamatrain.model.scalar_head import ScalarModel  # noqa: E402
from llamatrain.responses.pairs import score_pairs  # noqa: E402
from llamatrain.statistics import mean_interval  # noqa: E402
from llamatrain.text_files import read_json  # noqa: E402
from reward.__main__ import train  # noqa: E402
from reward.config import RewardConfig  # noqa: E402
from reward.data import load_pairs, most_tokens  # noqa: E402

STRATEGIES = ("random", "gap", "disagreement")
DOUBLINGS = 2
Chosen = list[int]  # numbers of the rows that are rated


def main() -> int:
    """Measure each seed, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--kind", default="helpfulness", choices=["helpfulness", "safety"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--start", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    how = (options.kind, options.start, options.strategies)
    same = [line for line in done if (line["kind"], line["start"], list(line["results"])) == how]
    for seed in options.seeds:
        if any(line["seed"] == seed for line in same):
            continue
        line = {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "kind": options.kind,
            "start": options.start,
            "seed": seed,
            "results": Trial(options.demo, options.folder / f"{options.kind}_{seed}", options.kind, seed).run(
                options.start, options.strategies
            ),
        }
        same.append(line)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
    table(same)
    return 0


class Trial:
    """One seed: a pool of rated pairs, of which each strategy sees those that it asked for."""

    def __init__(self, demo: Path, folder: Path, kind: str, seed: int) -> None:
        rated = demo / "v1_rate" / f"preferences_{kind}.jsonl"
        self.pool = [json.loads(line) for line in rated.read_text().splitlines()]
        self.held_out = demo / "v1_rate" / f"preferences_{kind}_eval.jsonl"
        self.start, self.folder, self.kind, self.seed = demo / "sft" / "final", folder, kind, seed
        # Rows that a reward model is not trained on (equal, empty) are nothing to rate.
        self.usable = [n for n, row in enumerate(self.pool) if row["chosen"].strip() != row["rejected"].strip()]
        random.Random(seed).shuffle(self.usable)

    def run(self, start: int, strategies: Sequence[str]) -> dict[str, dict[str, list[int]]]:
        """Return strategy -> number of ratings -> which held-out pairs the model then orders right."""
        found: dict[str, dict[str, list[int]]] = {}
        for strategy in strategies:
            rated = self.usable[:start]
            found[strategy] = {str(len(rated)): self.right(self.model("start", rated))}
            for number in range(DOUBLINGS):
                rated = rated + self.chosen(strategy, rated, "start" if number == 0 else f"{strategy}_{number}")
                found[strategy][str(len(rated))] = self.right(self.model(f"{strategy}_{number + 1}", rated))
        return found

    def chosen(self, strategy: str, rated: Chosen, name: str) -> Chosen:
        """Return what a strategy has rated next, kept for a start after an interruption."""
        file = self.folder / f"{strategy}_after_{name}.json"
        if not file.exists():
            atomic.write_json(file, self.next(strategy, rated, name))
        return read_json(file, list[int])

    def next(self, strategy: str, rated: Chosen, name: str) -> Chosen:
        """Return as many further rows as there are ratings; `name` is the model of those."""
        known = set(rated)
        count, waiting = len(rated), [number for number in self.usable if number not in known]
        if strategy == "random":
            return waiting[:count]
        if strategy == "disagreement":
            halves = [
                self.gaps(self.model(f"{strategy}_{name}_half{half}", rated[half::2]), waiting) for half in (0, 1)
            ]
            apart = [abs(one - other) for one, other in zip(*halves, strict=True)]
            return [waiting[place] for place in sorted(range(len(waiting)), key=lambda place: -apart[place])][:count]
        gaps = self.gaps(self.model(name, rated), waiting)
        return [waiting[place] for place in sorted(range(len(waiting)), key=lambda place: abs(gaps[place]))][:count]

    def model(self, name: str, rated: Chosen) -> Path:
        """Return the reward model that is trained on these rows; the one that is there where it was trained before."""
        if (self.folder / name / "final").exists():
            return self.folder / name / "final"
        file = self.folder / f"{name}.jsonl"
        write_rows(file, (self.pool[number] for number in rated))
        overrides = [
            f"run.dir={self.folder}",
            f"run.name={name}",
            "run.progress=false",
            "run.wandb.mode=disabled",
            "run.keep_best=false",
            f"run.seed={self.seed}",
            f"checkpoint={self.start}",
            f"kind={self.kind}",
            f"train=[{file}]",
            "batch_pairs=16",
            "micro_batch_size=16",
            "optim.lr=1e-3",
        ]
        train(compose("reward", RewardConfig, overrides))
        return self.folder / name / "final"

    def gaps(self, model: Path, rows: Sequence[int]) -> list[float]:
        """Return how much better a model finds the chosen response of each row."""
        file = self.folder / "waiting.jsonl"
        write_rows(file, (self.pool[number] for number in rows))
        return self.scored(model, file)

    def right(self, model: Path) -> list[int]:
        """Return of each held-out pair whether the model orders it right."""
        return [int(gap > 0) for gap in self.scored(model, self.held_out)]

    def scored(self, folder: Path, file: Path) -> list[float]:
        """Return chosen - rejected of all pairs of a file, none of which may be left out."""
        tokenizer = hf_folder.load_tokenizer(folder, None)
        longest = most_tokens(folder, None)
        model = hf_folder.load_model(folder, torch.device("cpu"), torch.float32)
        assert isinstance(model, ScalarModel)
        pairs, _ = load_pairs(str(file), tokenizer, longest, "skip", self.kind)
        gaps = {
            pair.row: chosen - rejected
            for pair, (chosen, rejected) in zip(pairs, score_pairs(model.eval(), pairs, longest, 64), strict=True)
        }
        count = sum(1 for line in file.read_text().splitlines() if line)
        return [gaps.get(row, 0.0) for row in range(count)]  # what is too long or empty is decided by nobody


def table(lines: Sequence[dict[str, Any]]) -> None:
    """Print mean accuracy over seeds, and each strategy's difference to random order with its interval over pairs."""
    strategies, counts = list(lines[0]["results"]), list(lines[0]["results"]["random"])
    print(f"| ratings | {' | '.join(strategies)} |")
    print(f"|---|{'---|' * len(strategies)}")
    for count in counts:
        cells = []
        for strategy in strategies:
            right = [line["results"][strategy][count] for line in lines]
            cell = f"{100 * fmean(map(fmean, right)):.1f}"
            if strategy != "random":
                random_ = [line["results"]["random"][count] for line in lines]
                over = [
                    fmean(a) - fmean(b)
                    for a, b in zip(zip(*right, strict=True), zip(*random_, strict=True), strict=True)
                ]
                found = mean_interval(over)
                half = 0.0 if found.low is None else found.mean - found.low
                cell += f" ({100 * found.mean:+.1f} ±{100 * half:.1f})"
            cells.append(cell)
        print(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
