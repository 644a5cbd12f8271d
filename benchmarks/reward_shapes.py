"""What reward models learn from ratings, labels and more pairs, on the toy world (paper, tables 8, 28 and 29, figure 6).

    python benchmarks/reward_shapes.py run --demo runs/demo --root runs/shapes --seeds 0 1 2
    python benchmarks/reward_shapes.py show

From a finished demo's SFT model: each seed samples and rates pairs of its own, and trains on them as the demo does, with the margins of table 27 and
without, with the safe/unsafe term and without, and on shares of the pairs. All models are measured on the same held-out
pairs, whose prompts no model has seen; differences are paired, and chance is over prompts. What is done below `--root` is
not done again; the figures are one line of results/reward_shapes.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recorded import ROOT, add, ends, lines_of, start

sys.path.insert(0, str(ROOT))

import torch

from llamatrain import atomic, hf_folder
from llamatrain.data.kinds import RATINGS, PromptRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.responses.pairs import score_pairs
from llamatrain.statistics import by_group, clustered_interval, paired_interval
from llamatrain.text_files import read_json
from reward.card.rows import ScoredRow, join
from reward.data import load_pairs, most_tokens
from reward.scoring import BINS

NAME = "reward_shapes"
KINDS = ("helpfulness", "safety")
PROMPTS = 4500  # held out, of which about a quarter are adversarial
PAIRS = {"harmless": 2, "adversarial": 6}  # per held-out prompt, so that there are over 5,000 of each kind
SHARES = (0.125, 0.25, 0.5)
# Name -> kind and what differs from the demo's model of it.
MODELS: dict[str, tuple[str, list[str]]] = {
    "no margin": ("helpfulness", ["margin=none"]),
    "small margin": ("helpfulness", []),
    "large margin": ("helpfulness", ["margin=large"]),
    **{f"share {share}": ("helpfulness", [f"epochs={share}"]) for share in SHARES},
    "no safe/unsafe term": ("safety", ["auxiliary_weight=0"]),
    "safe/unsafe term": ("safety", []),
}
DEMO = ("small margin", "safe/unsafe term")  # the demo's two models
Rows = list[ScoredRow]
Groups = dict[str, dict[str, list[float]]]  # group -> prompt -> a value per pair and seed


def main() -> int:
    """Run, or show what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "show"))
    parser.add_argument("--demo", type=Path, help="a finished demo")
    parser.add_argument("--root", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.command == "run":
        if options.demo is None or options.root is None:
            parser.error("need --demo and --root")
        add(NAME, run(options.demo.resolve(), options.root.resolve(), options.seeds))
    show(lines_of(NAME)[-1])
    return 0


# --- the runs ----------------------------------------------------------------------------------------------------


def run(demo: Path, root: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Train every model with every seed, score the held-out pairs, and return what comes out."""
    pools = held_out(demo, root)
    scores: dict[str, dict[str, list[Rows]]] = {}
    for seed in seeds:
        rated = pairs(root, demo, f"s{seed}", demo / "world" / "prompts.jsonl", 2, seed)
        for name in MODELS:
            model = train(demo, root / f"s{seed}", name, rated, seed)
            for kind in KINDS if name in DEMO else MODELS[name][:1]:
                scores.setdefault(name, {}).setdefault(kind, []).append(scored(model, pools[kind], kind))
    margins = ("no margin", "small margin", "large margin")
    terms = ("no safe/unsafe term", "safe/unsafe term")
    amounts = (*(f"share {share}" for share in SHARES), "small margin")
    return {
        "seeds": list(seeds),
        "pairs": {kind: len(scores["small margin"][kind][0]) for kind in KINDS},
        "table 8": {
            f"{name} model on {kind}": intervals(by_rating(scores[model][kind]))
            for name, model in (("helpfulness", "small margin"), ("safety", "safe/unsafe term"))
            for kind in KINDS
        },
        "table 28": against({name: by_rating(scores[name]["helpfulness"]) for name in margins}),
        "table 29": against({name: by_bin(scores[name]["safety"]) for name in terms}),
        "figure 6": {name: intervals(by_rating(scores[name]["helpfulness"])) for name in amounts},
    }


def held_out(demo: Path, root: Path) -> dict[str, Path]:
    """Return kind -> preferences on prompts that the demo's world holds out, more of them than the demo samples."""
    start("toyworld", "preset=demo", f"prompts_eval={PROMPTS}", f"run.dir={root}", "run.name=world")
    prompts = list(read_rows(str(root / "world" / "prompts_eval.jsonl"), PromptRow))
    found = {}
    for name, kind in (("harmless", "helpfulness"), ("adversarial", "safety")):
        file = root / f"{name}.jsonl"
        write_rows(file, (row for row in prompts if row["is_adversarial"] == (name == "adversarial")))
        rated = pairs(root, demo, f"held_out_{name}", file, PAIRS[name], 1000)
        found[kind] = rated / f"preferences_{kind}.jsonl"
    return found


def pairs(root: Path, demo: Path, name: str, prompts: Path, per_prompt: int, seed: int) -> Path:
    """Sample pairs of the demo's SFT model and have its annotators rate them; return the folder of preferences."""
    sampled, rated = root / f"{name}_compare", root / f"{name}_rate"
    common = [f"run.dir={root}", "run.wandb.mode=disabled"]
    start(
        *("compare", "preset=demo", "ranks=2", f"run.name={sampled.name}", f"run.seed={seed}", *common),
        *(f"checkpoint_a={demo / 'sft' / 'final'}", f"prompts=[{prompts}]", f"pairs_per_prompt={per_prompt}"),
    )
    start(
        *("rate", f"run.name={rated.name}", f"seed={seed}", *common, f"world={demo / 'world'}"),
        *(f"comparisons=[{sampled / 'comparisons.jsonl'}]", "eval_fraction=0"),
    )
    return rated


def train(demo: Path, folder: Path, name: str, rated: Path, seed: int) -> Path:
    """Train a reward model as the demo does, but for what its name says; return its checkpoint."""
    kind, overrides = MODELS[name]
    other = KINDS[1 - KINDS.index(kind)]
    run_name = name.replace(" ", "_").replace("/", "_")
    start(
        *("reward", "preset=demo", "ranks=2", f"kind={kind}", f"checkpoint={demo / 'sft' / 'final'}"),
        *(f"train=[{rated / f'preferences_{kind}.jsonl'}]", f"mix=[{rated / f'preferences_{other}.jsonl'}]"),
        *("run.wandb.mode=disabled", "run.keep_best=false", f"run.dir={folder}", f"run.name={run_name}"),
        *(f"run.seed={seed}", *overrides),
    )
    return folder / run_name / "final"


@torch.no_grad()
def scored(checkpoint: Path, file: Path, kind: str) -> Rows:
    """Score held-out pairs; scores that were found before are read."""
    kept, longest = checkpoint.parent / f"scores_{kind}.json", most_tokens(checkpoint, None)
    pairs, _ = load_pairs(str(file), hf_folder.load_tokenizer(checkpoint, None), longest, "skip", kind)
    if not kept.is_file():
        model = hf_folder.load_model(checkpoint, torch.device("cpu"), torch.float32)
        assert isinstance(model, ScalarModel)
        atomic.write_json(kept, score_pairs(model.eval(), pairs, longest, 64))
    return join(str(file), pairs, read_json(kept, list[Any]), None, BadRows())


# --- what comes out ----------------------------------------------------------------------------------------------


def by_rating(seeds: Sequence[Rows]) -> Groups:
    """Return whether pairs are ordered right, by rating and of all."""
    return grouped(seeds, RATINGS, lambda row: row.rating)


def by_bin(seeds: Sequence[Rows]) -> Groups:
    """Return whether pairs are ordered right, by safety bin and of all, and which share of unsafe and of safe responses is below zero."""
    below = {
        f"{name}_below_zero": by_group(
            (row.prompt, float(score < 0))
            for rows in seeds
            for row in rows
            for _, score, is_safe in row.responses()
            if is_safe is safe
        )
        for name, safe in (("unsafe", False), ("safe", True))
    }
    return grouped(seeds, BINS, lambda row: row.bin) | below


def grouped(seeds: Sequence[Rows], names: Sequence[str], name_of: Callable[[ScoredRow], str | None]) -> Groups:
    """Return group -> prompt -> whether its pairs are ordered right, of each seed's model."""
    rows = [row for seed in seeds for row in seed]
    return {
        name: by_group((row.prompt, float(row.correct)) for row in rows if name in (name_of(row), "all"))
        for name in (*names, "all")
    }


def intervals(groups: Groups) -> dict[str, Any]:
    """Return the mean of each group with its ends."""
    return {name: ends(clustered_interval(values)) for name, values in groups.items() if values}


def against(models: dict[str, Groups]) -> dict[str, Any]:
    """Return the figures of some models, and the paired differences of all from the first."""
    (baseline, base), *others = models.items()
    return {name: intervals(groups) for name, groups in models.items()} | {
        f"{name}, over {baseline}": {group: ends(paired_interval(ours[group], base[group])) for group in base}
        for name, ours in others
    }


def show(line: dict[str, Any]) -> None:
    """Print the tables as Markdown, in per cent."""
    for title in ("table 8", "table 28", "table 29", "figure 6"):
        rows = line[title]
        columns = list(next(iter(rows.values())))
        print(f"\n| {title} | {' | '.join(name.replace('_', ' ') for name in columns)} |\n|---|{'---|' * len(columns)}")
        for name, cells in rows.items():
            sign = "+" if ", over " in name else ""
            print(f"| {name} | {' | '.join(cell(cells.get(column), sign) for column in columns)} |")


def cell(found: list[float] | None, sign: str) -> str:
    """Return a mean and half its interval."""
    return "" if found is None else f"{100 * found[0]:{sign}.1f} ±{50 * (found[2] - found[1]):.1f}"


if __name__ == "__main__":
    sys.exit(main())
