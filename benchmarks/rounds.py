"""Five rounds of the demo, measured by the gold judge, and what a round forgets that does not remember (paper 3.2, 3.4, 5.1).

    python benchmarks/rounds.py run --root runs/rounds --seeds 0 1 2
    python benchmarks/rounds.py run --root runs/rounds --seeds 0 --folder runs/demo    a pipeline that is finished elsewhere
    python benchmarks/rounds.py temperatures --root runs/rounds --seeds preset --folder runs/demo    of any number of rounds
    python benchmarks/rounds.py show

`run` runs `preset=demo rounds=5` with each seed, or what is left of it, then the comparison of memories: V2 is tuned once on the
best samples of both rounds and once on its own alone, which hold no prompt of one task (`SKILL`). A line per seed goes to
results/rounds.jsonl; a seed that has one for this commit is passed over. `temperatures` samples a finished pipeline's models at
several temperatures and scores the best of K (figure 8), a line in results/temperatures.jsonl. `show` prints the lines and draws
docs/rounds.svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from chain import commit
from recorded import ROOT, add, ends, lines_of, start, svg

sys.path.insert(0, str(ROOT))

import numpy as np

from evaluation.measures import logit, measure
from launch.report.figures import Line, line_chart, ridges
from llamatrain.data.kinds import JudgementRow, PromptRow, ResponseRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.order_statistics import best_weights, expected_best, median_weights
from llamatrain.statistics import by_prompt, mean_interval, paired_interval

ROUNDS = 5
SKILL = "how_to"  # what rejection sampling improves most in its first round
COUNTS = {"harmless": "helpfulness", "adversarial": "safety"}  # kind of prompt -> the gold score that counts there
SIZES = (1, 2, 5, 10)  # of K
TEMPERATURES = (0.1, 0.4, 0.7, 1.0, 1.3)
TRIED = ("0.6", "0.8", "1.0", "1.2", "1.4")  # of figure 8's
PICTURE = ROOT / "docs" / "rounds.svg"
NAME, TRIALS = "rounds", "temperatures"


def main() -> int:
    """Run, or show what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "temperatures", "show"))
    parser.add_argument("--root", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="`preset`: the preset's own")
    parser.add_argument("--folder", type=Path, help="of the one seed's pipeline, where it lies elsewhere")
    options = parser.parse_args()
    if options.command != "show":
        if options.root is None or (options.folder is not None and len(options.seeds) != 1):
            parser.error("need --root, the folder of the runs, and with --folder one seed")
        name, measured = (NAME, run) if options.command == "run" else (TRIALS, temperatures)
        known = {(line["seed"], line["commit"]) for line in lines_of(name)}
        for seed in options.seeds:
            if (seed, commit()) not in known:
                measured(seed, options.root.resolve(), options.folder)
    if options.command != "temperatures":
        show(options.seeds)
    show_temperatures(options.seeds)
    if not any(line["seed"] in options.seeds for name in (NAME, TRIALS) for line in lines_of(name)):
        raise SystemExit(
            f"--seeds {' '.join(options.seeds)}: neither {NAME}.jsonl nor {TRIALS}.jsonl in results/ has a line of these"
        )
    return 0


def run(seed: str, root: Path, folder: Path | None) -> None:
    """Run a seed's pipeline and comparison, and record them."""
    if folder is None:
        folder = root / f"s{seed}"
        own = [] if seed == "preset" else [f"seed={seed}"]
        start("pipeline", "preset=demo", f"rounds={ROUNDS}", *own, f"run.dir={root}", f"run.name=s{seed}")
    folder = folder.resolve()
    asked = {
        "memory": memory(folder, root / f"s{seed}_memory"),
        "self_bleu": diversity(folder, root / f"s{seed}_temperatures"),
    }
    add(NAME, {"seed": seed, **of_pipeline(folder), **asked})


# --- the pipeline ------------------------------------------------------------------------------------------------


def of_pipeline(folder: Path) -> dict[str, Any]:
    """Return what the stages of a finished pipeline measured."""
    stages = json.loads((folder / "pipeline.json").read_text())["stages"]
    evaluation = json.loads((folder / "evaluate" / "evaluation.json").read_text())
    seconds = {name: json.loads((folder / name / "stage.json").read_text())["seconds"] for name in stages}
    models = list(evaluation["models"])
    return {
        "pipeline_commit": _made_at(folder),
        "minutes": round(sum(seconds.values()) / 60, 1),
        "gold": {kind: {m: _interval(part["models"][m][COUNTS[kind]]) for m in models} for kind, part in evaluation["by_kind"].items()},
        "wins": {kind: wins(part["comparisons"], COUNTS[kind]) for kind, part in evaluation["by_kind"].items()},
        "spearman": {
            kind: {m: _interval(part["models"][m].get(f"spearman_{COUNTS[kind]}")) for m in models[1:]}
            for kind, part in evaluation["by_kind"].items()
        },
        "accuracy": {name: json.loads(path.read_text())["overall"]["accuracy"] for name, path in _accuracies(folder)},
        "best_of": {
            f"v{n}": best_of(folder / f"v{n}_rejection_sampling", folder / f"v{n}_judge_rs_candidates")
            for n in range(1, ROUNDS + 1)
        },
        "scores": {m: quantiles(folder / f"sample_{m}") for m in models[1:]},
    }  # fmt: skip


def _made_at(folder: Path) -> str:
    commit: str = json.loads((folder / "evaluate" / "status.json").read_text())["environment"]["commit"]
    return commit


def _accuracies(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob("v*_accuracy_*/accuracy.json")):
        yield path.parent.name, path


def _interval(one: dict[str, Any] | None) -> list[float] | None:
    return None if one is None else [round(one[key], 4) for key in ("mean", "low", "high")]


def wins(comparisons: list[dict[str, Any]], metric: str) -> dict[str, dict[str, Any]]:
    """Return model -> its win rate over SFT in a gold score, ties left out, and that at equal length (paper figure 11)."""
    return {
        one["model"]: {
            "rate": [round(one[key], 4) for key in ("win_rate", "win_low", "win_high")],
            "at_equal_length": [round(one[f"{key}_at_equal_length"], 4) for key in ("win_rate", "win_low", "win_high")],
            "ties": one["ties"],
        }
        for one in comparisons
        if one["baseline"] == "sft" and one["metric"] == metric
    }


def best_of(sampled: Path, judge: Path) -> dict[str, dict[str, list[float]]]:
    """Return for each kind of prompt the best, median and gold score of the best of K, over the sizes (paper figure 7)."""
    responses = read_rows(sampled / "responses.jsonl", ResponseRow)
    judged = read_rows(judge / "judgements.jsonl", JudgementRow)
    prompts: dict[tuple[str, str], list[tuple[bool, float, float]]] = {}
    for row, mark in zip(responses, judged, strict=True):
        kind = "adversarial" if row["is_adversarial"] else "harmless"
        usable = bool(row["finished"] and row["response"])
        score = logit(row["combined"])
        prompts.setdefault((kind, row["prompt_id"]), []).append((usable, score, mark[COUNTS[kind]]))  # type: ignore[literal-required]
    found: dict[str, dict[str, list[float]]] = {}
    for kind in COUNTS:
        groups = [sorted(rows) for (own, _), rows in prompts.items() if own == kind]
        lines: dict[str, list[float]] = {"best": [], "median": [], "gold": []}
        for k in SIZES:
            chosen, middle = best_weights(len(groups[0]), k), median_weights(len(groups[0]), k)
            lines["best"].append(_over(groups, chosen, 1))
            lines["median"].append(_over([sorted(rows, key=lambda row: row[1]) for rows in groups], middle, 1))
            lines["gold"].append(_over(groups, chosen, 2))
        found[kind] = lines
    return found


def _over(groups: list[list[tuple[bool, float, float]]], weights: list[float], place: int) -> float:
    own = (sum(w * row[place] for w, row in zip(weights, rows, strict=True)) for rows in groups)
    return round(fmean(own), 4)


def quantiles(sample: Path) -> dict[str, list[float]]:
    """Return 40 quantiles of the logits of the score that counts for each kind of prompt (paper figure 20)."""
    scores: dict[str, list[float]] = {"helpfulness": [], "safety": []}
    for row in read_rows(sample / "responses.jsonl", ResponseRow):
        if row["is_adversarial"]:
            scores["safety"].append(logit(row["safety_score"]))
        else:
            scores["helpfulness"].append(logit(row["helpfulness"]))
    return {name: np.quantile(values, (np.arange(40) + 0.5) / 40).round(3).tolist() for name, values in scores.items()}


# --- memory ------------------------------------------------------------------------------------------------------


def memory(folder: Path, own: Path) -> dict[str, Any]:
    """Return what V2 is worth with the best samples of V1 and without, on a task that its own prompts lack, and on the others.

    All of the second round's is the pipeline's: reward models, the policy that samples, the SFT model that is tuned.
    """
    world, first = folder / "world", folder / "v1_rejection_sampling"
    own.mkdir(parents=True, exist_ok=True)
    rows = list(read_rows(world / "prompts.jsonl", PromptRow))
    write_rows(own / "prompts.jsonl", (row for row in rows if row["meta"]["task"] != SKILL))
    models = {"sft": folder / "sft" / "final", "rs_v1": first / "final"}
    for name, earlier in (("with memory", f"[{first}/best.jsonl]"), ("without", "[]")):
        run_name = name.replace(" ", "_")
        start("rejection_sampling", "preset=demo", f"run.dir={own}", f"run.name={run_name}", "round=2", f"earlier={earlier}",
              f"checkpoint={first}/final", f"base={folder}/sft/final", f"prompts=[{own}/prompts.jsonl]",
              f"helpfulness={folder}/v2_reward_helpfulness/final", f"safety={folder}/v2_reward_safety/final",
              f"sft_train=[{world}/dialogues.jsonl]", f"replay={folder}/corpus", "replay_fraction=0.2")  # fmt: skip
        models[name] = own / run_name / "final"
    asked = {row["id"]: row["meta"]["task"] for row in read_rows(world / "prompts_eval.jsonl", PromptRow)}
    marks: dict[str, dict[str, list[float]]] = {}
    for name, model in models.items():
        run_name = f"sample_{name.replace(' ', '_')}"
        start("sample", "preset=demo", f"run.dir={own}", f"run.name={run_name}", f"checkpoint={model}",
              f"prompts=[{world}/prompts_eval.jsonl]", "max_prompts=null")  # fmt: skip
        start("judge", f"run.dir={own}", f"run.name=judge_{run_name}", f"world={world}",
              f"responses={own}/{run_name}/responses.jsonl")  # fmt: skip
        answers = measure(f"{own}/{run_name}", f"{own}/judge_{run_name}")
        harmless = [prompt for prompt, adversarial in answers.is_adversarial.items() if not adversarial]
        marks[name] = answers.at("helpfulness", harmless)
    parts = {
        SKILL: {p for p, task in asked.items() if task == SKILL},
        "other tasks": {p for p, task in asked.items() if task != SKILL},
    }
    return {part: _memory(marks, prompts) for part, prompts in parts.items()}


def _memory(marks: dict[str, dict[str, list[float]]], prompts: set[str]) -> dict[str, Any]:
    own = {name: {p: values for p, values in found.items() if p in prompts} for name, found in marks.items()}
    means = {name: ends(mean_interval(list(by_prompt(found).values()))) for name, found in own.items()}
    return {"gold": means, "with memory over without": ends(paired_interval(own["with memory"], own["without"]))}


# --- temperatures ------------------------------------------------------------------------------------------------


def diversity(folder: Path, own: Path) -> dict[str, dict[str, list[float]]]:
    """Return model -> kind of prompt -> mean Self-BLEU of the answers at each of TEMPERATURES (paper figure 21).

    Factual prompts ask for held-out facts, creative ones for stories: ten each, ten answers per temperature.
    """
    own.mkdir(parents=True, exist_ok=True)
    rows = list(read_rows(folder / "world" / "prompts_eval.jsonl", PromptRow))
    asked = [
        {"id": row["id"], "kind": kind, "prompt": row["messages"][-1]["content"]}
        for task, kind in (("fact", "factual"), ("story", "creative"))
        for row in [row for row in rows if row["meta"]["task"] == task and len(row["messages"]) == 1][:10]
    ]
    write_rows(own / "probes.jsonl", asked)
    found = {}
    for name, stage in (("sft", "sft"), (f"rs_v{ROUNDS}", f"v{ROUNDS}_rejection_sampling"), ("ppo", "ppo")):
        start("probe", "kind=temperature", f"run.dir={own}", f"run.name={name}", f"checkpoint={folder}/{stage}/final",
              f"probes=[{own}/probes.jsonl]", f"diversity.temperatures={list(TEMPERATURES)}".replace(" ", ""),
              "diversity.samples_per_prompt=10", "sampling.max_new_tokens=56")  # fmt: skip
        points = json.loads((own / name / "probe.json").read_text())["self_bleu"]
        found[name] = {kind: [round(100 * point["mean"], 1) for point in points[kind]] for kind in points}
    return found


def temperatures(seed: str, root: Path, folder: Path | None) -> None:
    """Record the best of K at each temperature in TRIED of SFT, of every round and of PPO (paper figure 8).

    All answer the same held-out prompts, scored by the reward models of the last round: a difference is the policies' own.
    """
    folder = (folder or root / f"s{seed}").resolve()
    own = root / f"s{seed}_{TRIALS}_tried"
    stages = json.loads((folder / "pipeline.json").read_text())["stages"]
    rounds = [n for n in range(1, len(stages)) if f"v{n}_rejection_sampling" in stages]
    models = {"sft": "sft", **{f"rs_v{n}": f"v{n}_rejection_sampling" for n in rounds}, "ppo": "ppo"}
    found = {}
    for name, stage in models.items():
        asked = [f"checkpoint={folder}/{stage}/final", f"prompts=[{folder}/world/prompts_eval.jsonl]"]
        asked += [f"{kind}={folder}/v{rounds[-1]}_reward_{kind}/final" for kind in COUNTS.values()]
        points, scores = {}, {}
        for temperature in TRIED:
            run_name = f"{name}_{temperature}"
            start("sample", "preset=demo", f"run.dir={own}", f"run.name={run_name}", *asked, "max_prompts=200",
                  f"samples_per_prompt={SIZES[-1]}", f"sampling.temperature={temperature}")  # fmt: skip
            start("judge", f"run.dir={own}", f"run.name=judge_{run_name}", f"world={folder}/world",
                  f"responses={own}/{run_name}/responses.jsonl")  # fmt: skip
            prompts: dict[str, list[float]] = {}
            for row in read_rows(own / run_name / "responses.jsonl", ResponseRow):
                prompts.setdefault(row["prompt_id"], []).append(row["combined"])
            scores[temperature] = {id: [expected_best(values, SIZES[-1])] for id, values in prompts.items()}
            means = [round(fmean(expected_best(values, k) for values in prompts.values()), 4) for k in SIZES]
            points[temperature] = {"score": means, "by_kind": best_of(own / run_name, own / f"judge_{run_name}")}
        for temperature, point in points.items():
            point["over_1"] = ends(paired_interval(scores[temperature], scores["1.0"]))
        found[name] = points
    add(TRIALS, {"seed": seed, "pipeline_commit": _made_at(folder), "models": found})


# --- what is shown -----------------------------------------------------------------------------------------------


def show(seeds: list[str]) -> None:
    """Print the newest line of each seed that has one, and draw them."""
    found = {line["seed"]: line for line in lines_of(NAME) if line["seed"] in seeds}
    if not found:
        return
    for kind, metric in COUNTS.items():
        models = list(next(iter(found.values()))["scores"])[1:]  # SFT comes first
        print(
            f"\nwin rate over sft, {metric} on {kind} prompts\n| seed | {' | '.join(models)} |\n|---{'|---' * len(models)}|"
        )
        for seed, line in found.items():
            cells = ("{:.3f} ({:.3f} to {:.3f})".format(*line["wins"][kind][model]["rate"]) for model in models)
            print(f"| {seed} | {' | '.join(cells)} |")
    print(
        "\n| seed | round | kind | best of 1 | best of 10 | median of 10 | gold of 1 | gold of 10 |\n|---|---|---|---|---|---|---|---|"
    )
    for seed, line in found.items():
        for number, kinds in line["best_of"].items():
            for kind, own in kinds.items():
                cells = (own["best"][0], own["best"][-1], own["median"][-1], own["gold"][0], own["gold"][-1])
                print(f"| {seed} | {number} | {kind} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    print("\n| seed | part | sft | rs_v1 | with memory | without | with over without |\n|---|---|---|---|---|---|---|")
    for seed, line in found.items():
        for part, own in line["memory"].items():
            cells = [f"{mean[0]:.3f}" for mean in own["gold"].values()]
            cells.append("{:+.3f} ({:+.3f} to {:+.3f})".format(*own["with memory over without"]))
            print(f"| {seed} | {part} | " + " | ".join(cells) + " |")
    print(
        "\n| seed | model | kind | "
        + " | ".join(f"{t:g}" for t in TEMPERATURES)
        + " |\n|---|---|---"
        + "|---" * len(TEMPERATURES)
        + "|"
    )
    for seed, line in found.items():
        for model, kinds in line["self_bleu"].items():
            for kind, values in kinds.items():
                print(f"| {seed} | {model} | {kind} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    draw(found)


def show_temperatures(seeds: list[str]) -> None:
    """Print the newest trials of each seed that has any: the score in (0, 1) on all prompts, the judge's of the one kept by kind."""
    found = {line["seed"]: line for line in lines_of(TRIALS) if line["seed"] in seeds}
    if found:
        print(
            f"\n| seed | model | of the best of {SIZES[-1]} | {' | '.join(TRIED)} |\n|---|---|---{'|---' * len(TRIED)}|"
        )
    for seed, line in found.items():
        for model, points in line["models"].items():
            rows = {
                "score": [f"{point['score'][-1]:.3f}" for point in points.values()],
                "score over that at 1": ["{:+.3f} ({:+.3f} to {:+.3f})".format(*p["over_1"]) for p in points.values()],
                "score of one": [f"{point['score'][0]:.3f}" for point in points.values()],
            }
            for kind, metric in COUNTS.items():
                rows[f"gold {metric}, {kind}"] = [f"{p['by_kind'][kind]['gold'][-1]:.3f}" for p in points.values()]
            for name, cells in rows.items():
                print(f"| {seed} | {model} | {name} | {' | '.join(cells)} |")


def draw(found: dict[str, dict[str, Any]]) -> None:
    """Draw the course over the rounds (figure 11), best of K by round (figure 7) and score distributions (figure 20)."""
    first = next(iter(found.values()))
    models = list(first["scores"])[1:]
    drawn: list[tuple[str, list[tuple[str, int]], Any]] = []
    for kind, metric in COUNTS.items():
        lines = [
            Line(f"seed {seed}", [(float(i), line["wins"][kind][m]["rate"][0]) for i, m in enumerate(models)], 1 + place, "dots",
                 [tuple(line["wins"][kind][m]["rate"][1:]) for m in models])
            for place, (seed, line) in enumerate(found.items())
        ]  # fmt: skip
        words = [model.removeprefix("rs_") for model in models]
        title = f"Wins over SFT: {metric}"
        legend = [(line.name, line.colour) for line in lines]
        drawn.append((title, legend, line_chart(lines, "model", "share of wins", title, words=words)))
    for kind in COUNTS:
        lines = []
        for number, kinds in first["best_of"].items():
            colour = int(number[1:])
            lines.append(Line(f"best, {number}", list(zip(SIZES, kinds[kind]["best"], strict=True)), colour))
            lines.append(
                Line(f"median, {number}", list(zip(SIZES, kinds[kind]["median"], strict=True)), colour, "faint")
            )
        title = f"Best of K, {kind} prompts"
        legend = [(f"v{n}", n) for n in range(1, ROUNDS + 1)]
        drawn.append((title, legend, line_chart(lines, "K (faint: the median)", "combined score (logit)", title)))
    for name in ("helpfulness", "safety"):
        rows = [(model, own[name], place % 8) for place, (model, own) in enumerate(first["scores"].items(), 1)]
        drawn.append((f"Distribution of the {name} score", [], ridges(rows, "score (logit)", name)))
    PICTURE.write_text(svg(drawn))
    print(f"\nwrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
