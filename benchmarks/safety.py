"""Safety fine-tuning in the toy world: context distillation with its gate and without, and how much safety data it takes.

    python benchmarks/safety.py distill --root runs/distill --seeds 0 1 2
    python benchmarks/safety.py scaling --root runs/scaling --seeds 0 1 2
    python benchmarks/safety.py show

`distill` fine-tunes the demo's SFT model, whose world teaches preprompts, on a fifth of its dialogues and as many of: answers
that distillation kept (`gated`), all that are finished (`ungated`), other dialogues (`none`). `scaling` runs the pipeline's
method safety_scaling. Both resume, and add a line per seed and model to results/safety.jsonl: means with their 95 % intervals
over prompts, and differences to the model `none` or that without safety data. `show` prints them, and the means over the
seeds, and draws docs/safety_scaling.svg. The seed `preset` is the preset's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recorded import ROOT, add, ends, lines_of, start, svg

PICTURE = ROOT / "docs" / "safety_scaling.svg"
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from evaluation.measures import measure  # noqa: E402
from launch.report.figures import Line, line_chart, ridges  # noqa: E402
from llamatrain.statistics import by_prompt, mean_interval, paired_interval  # noqa: E402

ARMS = ("sft", "none", "ungated", "gated")
SHARES = ("0", "1", "10", "25", "50", "100")
OF_KIND = {  # what is told of answers to adversarial and to harmless prompts: metric -> its name here
    True: {"safety": "safety", "score_safety": "safety score", "helpfulness": "helpfulness, adversarial"},
    False: {"helpfulness": "helpfulness", "score_helpfulness": "helpfulness score", "refused": "refused"},
}
BORDERLINE = {"refused": "refused, borderline", "helpfulness": "helpfulness, borderline"}
Samples = dict[str, list[float]]  # prompt -> values of its samples


def main() -> int:
    """Run, or show what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("distill", "scaling", "show"))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--settings", nargs="*", default=[], help="overrides of the pipeline, such as ranks=1")
    options = parser.parse_args()
    if options.command == "show":
        show()
        return 0
    if options.root is None:
        parser.error("need --root, the folder of the runs")
    study, base = (distill, "none") if options.command == "distill" else (scale, "0")
    for seed in options.seeds:
        folder = options.root.resolve() / f"s{seed}"
        found = dict(study(folder, seed, options.settings))
        for model, metrics in found.items():
            about = {"study": options.command, "seed": seed, "model": model}
            add("safety", {**about, **told(metrics, found[base])})
    show()
    return 0


def told(metrics: dict[str, Samples], base: dict[str, Samples]) -> dict[str, Any]:
    """Return each metric's mean with its interval, its difference to the base's, and 41 quantiles of the scores."""
    line: dict[str, Any] = {"means": {}, "differences": {}, "quantiles": {}}
    for name, samples in metrics.items():
        line["means"][name] = ends(mean_interval(list(by_prompt(samples).values())))
        line["differences"][name] = ends(paired_interval(samples, base[name]))
        if "score" in name:
            values = [value for own in samples.values() for value in own]
            line["quantiles"][name] = np.quantile(values, np.linspace(0, 1, 41)).round(3).tolist()
    return line


def pipeline(folder: Path, seed: str, *settings: str) -> None:
    """Run the demo's pipeline, or what is left of it."""
    own = [] if seed == "preset" else [f"seed={seed}"]
    start("pipeline", "preset=demo", *own, f"run.dir={folder.parent}", f"run.name={folder.name}", *settings)


# --- context distillation ----------------------------------------------------------------------------------------


def distill(folder: Path, seed: str, settings: Sequence[str]) -> Iterator[tuple[str, dict[str, Samples]]]:
    """Yield each model with what its answers measure."""
    pipeline(folder, seed, "world.guided_fraction=0.25", "until=v1_reward_safety", *settings)
    own = folder.with_name(f"{folder.name}_distilled")
    sft, safety, world = folder / "sft" / "final", folder / "v1_reward_safety" / "final", folder / "world"
    for arm in ("gated", "ungated"):
        start(
            *("distill", "preset=demo", f"run.dir={own}", f"run.name=distill_{arm}", "max_prompts=null"),
            *(f"checkpoint={sft}", f"safety={safety}", f"prompts=[{world}/prompts.jsonl]"),
            f"require_better={str(arm == 'gated').lower()}",
        )
    for arm in ARMS:
        if arm != "sft":
            start(*fine_tuned(own, arm, folder))
        checkpoint = sft if arm == "sft" else own / arm / "final"
        scored = [f"checkpoint={checkpoint}", f"safety={safety}", f"helpfulness={folder}/v1_reward_helpfulness/final"]
        for kind, prompts in (("", "prompts_eval"), ("_borderline", "prompts_borderline")):
            name = f"{arm}{kind}"
            start("sample", "preset=demo", f"run.dir={own}", f"run.name=sample_{name}", *scored,
                  f"prompts=[{world}/{prompts}.jsonl]", "samples_per_prompt=2")  # fmt: skip
            start("judge", f"run.dir={own}", f"run.name=judge_{name}", f"world={world}",
                  f"responses={own}/sample_{name}/responses.jsonl")  # fmt: skip
        yield arm, measured(own, arm, f"{arm}_borderline")


def fine_tuned(own: Path, arm: str, folder: Path) -> list[str]:
    """Return the fine-tuning of an arm: of the SFT model, on a fifth of its dialogues and as many others or distilled ones."""
    dialogues = f"{folder}/world/dialogues.jsonl"
    more = f"{dialogues}@fold1/10" if arm == "none" else f"{own}/distill_{arm}/distilled.jsonl"
    return [
        *("sft", "preset=demo", f"run.dir={own}", f"run.name={arm}", f"checkpoint={folder}/sft/final", "epochs=1"),
        *(f"train=['{dialogues}@fold0/5','{more}']", f"eval=[{folder}/world/dialogues_eval.jsonl]"),
        *(f"replay={folder}/corpus", "replay_fraction=0.2", "optim.lr=7e-4"),
    ]


# --- safety data scaling -----------------------------------------------------------------------------------------


def scale(folder: Path, seed: str, settings: Sequence[str]) -> Iterator[tuple[str, dict[str, Samples]]]:
    """Yield the model of each share with what its answers measure."""
    pipeline(folder, seed, "method=safety_scaling", *settings)
    for share in SHARES:
        yield share, measured(folder, f"safety_{share}", f"borderline_safety_{share}")


# --- measuring ---------------------------------------------------------------------------------------------------


def measured(folder: Path, held_out: str, borderline: str) -> dict[str, Samples]:
    """Return metric -> prompt -> values, from the answers to held-out prompts and to borderline ones."""
    found: dict[str, Samples] = {}
    answers = measure(f"{folder}/sample_{held_out}", f"{folder}/judge_{held_out}")
    for adversarial, names in OF_KIND.items():
        prompts = {prompt for prompt, flag in answers.is_adversarial.items() if flag is adversarial}
        found |= {name: answers.at(metric, prompts) for metric, name in names.items()}
    answers = measure(f"{folder}/sample_{borderline}", f"{folder}/judge_{borderline}")
    return found | {name: answers.at(metric) for metric, name in BORDERLINE.items()}


def recorded(study: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Return model -> seed -> line; of what was recorded twice the last one counts."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in lines_of("safety"):
        if line["study"] == study:
            found.setdefault(line["model"], {})[line["seed"]] = line
    return found


def show() -> None:
    """Print both studies, and draw the scaling."""
    for study, order in (("distill", ARMS), ("scaling", SHARES)):
        found = recorded(study)
        models = [model for model in order if model in found]
        if not models:
            continue
        metrics = list(next(iter(found[models[0]].values()))["means"])
        print(f"\n{study}\n| model | seed | " + " | ".join(metrics) + " |\n|---|---" + "|---" * len(metrics) + "|")
        for model in models:
            for seed, line in found[model].items():
                cells = [_shown(line["means"][metric], line["differences"][metric]) for metric in metrics]
                print(f"| {model} | {seed} | " + " | ".join(cells) + " |")
            if len(found[model]) > 1:
                cells = [f"{over_seeds(found[model], metric)[0]:.3f}" for metric in metrics]
                print(f"| {model} | all | " + " | ".join(cells) + " |")
        if study == "scaling":
            draw(found, models)


def over_seeds(lines: dict[str, dict[str, Any]], metric: str) -> list[float]:
    """Return the mean over the seeds and its interval: of one seed that over its prompts, of several by their spread."""
    means = [line["means"][metric] for line in lines.values()]
    if len(means) == 1:
        return list(means[0])
    one = mean_interval([mean for mean, _, _ in means])
    return [one.mean, one.mean if one.low is None else one.low, one.mean if one.high is None else one.high]


def _shown(mean: list[float], difference: list[float] | None) -> str:
    more = (
        ""
        if not difference or difference == [0.0] * 3
        else f" ({difference[0]:+.3f}: {difference[1]:+.3f} to {difference[2]:+.3f})"
    )
    return f"{mean[0]:.3f}{more}"


# --- the picture -------------------------------------------------------------------------------------------------


def draw(found: dict[str, dict[str, dict[str, Any]]], models: Sequence[str]) -> None:
    """Draw the courses over the share, and the distributions of both scores, as one SVG file by the report's code."""
    panels = [
        ("Gold judge", "mean score", {"safety": 5, "helpfulness": 1}),
        ("Reward models", "mean logit", {"safety score": 5, "helpfulness score": 1}),
        ("False refusals", "share refused", {"refused": 1, "refused, borderline": 3}),
    ]
    drawn = []
    for title, y_label, metrics in panels:
        lines = [_line(found, models, metric, colour) for metric, colour in metrics.items()]
        legend = [(line.name, line.colour) for line in lines]
        words = [f"{model} %" for model in models]
        about = f"{title} by share of the safety data"
        drawn.append((title, legend, line_chart(lines, "share of the safety data", y_label, about, words=words)))
    for metric, title in (
        ("safety score", "Safety scores, adversarial"),
        ("helpfulness score", "Helpfulness scores, harmless"),
    ):
        rows = [
            (f"{model} %", [v for line in found[model].values() for v in line["quantiles"][metric]], place % 8)
            for place, model in enumerate(models)
        ]
        drawn.append((title, [], ridges(rows, "score (logit)", title)))
    PICTURE.write_text(svg(drawn))
    print(f"\nwrote {PICTURE.relative_to(ROOT)}")


def _line(found: dict[str, dict[str, dict[str, Any]]], models: Sequence[str], metric: str, colour: int) -> Line:
    means = [over_seeds(found[model], metric) for model in models]
    points = [(float(place), mean) for place, (mean, _, _) in enumerate(means)]
    return Line(metric, points, colour, "dots", [(low, high) for _, low, high in means])


if __name__ == "__main__":
    sys.exit(main())
