"""Does RLHF learn what the annotators meant? The demo's seeds against a former commit's, and with single rules undone.

    python benchmarks/learning_signal.py run --root runs/signal --seeds 0 1 2 --variant now
    python benchmarks/learning_signal.py run --root runs/signal --seeds 0 1 2 --variant uncentred --upstream runs/signal/now
    python benchmarks/learning_signal.py compare --base runs/former --root runs/signal now uncentred

`run` takes the stages up to the preferences from a run of the same seed (`--upstream`) where there is one. `compare`
reads the run folders <root>/<variant>/s<seed> and pairs them with <base>/s<seed>: gold marks by the judge, clustered by
prompt and pooled over the seeds. A line a variant goes to results/learning_signal.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "learning_signal.jsonl"
sys.path.insert(0, str(ROOT))

from llamatrain.data.kinds import JudgementRow, ResponseRow  # noqa: E402
from llamatrain.data.rows import read_rows  # noqa: E402
from llamatrain.statistics import by_prompt, mean_interval, paired_interval, spearman_interval  # noqa: E402


@dataclass(frozen=True)
class Variant:
    """What is undone or tried: settings of the pipeline, and edits of the code, (file, text, text in its place)."""

    settings: tuple[str, ...] = ()
    edits: tuple[tuple[str, str, str], ...] = ()


VARIANTS = {
    "now": Variant(),
    "uncentred": Variant(("reward.center_weight=0",)),
    "all_answers": Variant(
        ("rerun=[v1_rejection_sampling]",),  # the code changes, which nothing else tells
        (("rlhf/best_of.py", '"loss": "last"', '"loss": "all"'),),
    ),
    "raw_critic": Variant(
        ("ppo.critic_warmup=0",),
        (
            ("rlhf/ppo.py", "if updates > 0 or (", "if True or ("),
            ("rlhf/ppo.py", "judged = rescale(cfg, models.critic, batch, context)", "pass"),
        ),
    ),
    "unmixed": Variant(("mix_share.helpfulness=0", "mix_share.safety=0")),
}
MODELS = ("sft", "rs", "ppo")
REFUSES = "refuses without need"
Samples = dict[str, list[float]]


def main() -> int:
    """Run or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--variant", choices=VARIANTS, default="now")
    runs.add_argument("--upstream", type=Path, help="folder of runs s<seed> whose first stages are taken")
    compares = commands.add_parser("compare")
    compares.add_argument("--base", type=Path, required=True)
    compares.add_argument("variants", nargs="+")
    for command in (runs, compares):
        command.add_argument("--root", type=Path, required=True)
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.command == "run":
        return run(options)
    lines = [compare(options.base, options.root / variant, options.seeds) for variant in options.variants]
    with RESULTS.open("a") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
    for line in lines:
        show(line)
    return 0


def run(options: argparse.Namespace) -> int:
    """Run the demo of each seed; returns the first exit code that is not 0."""
    variant, folder = VARIANTS[options.variant], (options.root / options.variant).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        code = edited(Path(scratch), variant.edits) if variant.edits else ROOT
        return run_seeds(options, variant, folder, code)


def edited(scratch: Path, edits: tuple[tuple[str, str, str], ...]) -> Path:
    """Return a clone of this checkout's commit with the edits; each must find its text once."""
    code = scratch / "code"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(code)], check=True)
    for name, old, new in edits:
        text = (code / name).read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{name}: {old!r} stands there {text.count(old)} times; need once")
        (code / name).write_text(text.replace(old, new))
    return code


def run_seeds(options: argparse.Namespace, variant: Variant, folder: Path, code: Path) -> int:
    """Run the demo of each seed with the code of a folder."""
    for seed in options.seeds:
        if options.upstream is not None and not (folder / f"s{seed}").exists():
            shutil.copytree(options.upstream / f"s{seed}", folder / f"s{seed}", symlinks=True)
        command = [sys.executable, "-m", "launch", "pipeline", "preset=demo", f"seed={seed}"]
        command += [f"run.dir={folder}", f"run.name=s{seed}", *variant.settings]
        failed = subprocess.run(command, cwd=code, env={**os.environ, "WANDB_MODE": "disabled"}).returncode
        if failed:
            return failed
    return 0


def samples(folder: Path, model: str) -> Iterator[tuple[bool, dict[str, Any], dict[str, Any]]]:
    """Yield (adversarial, response, judgement) of a model's held-out responses; rs is rs_v1 since there are rounds."""
    model = model if (folder / f"sample_{model}").is_dir() else f"{model}_v1"
    responses = read_rows(folder / f"sample_{model}" / "responses.jsonl", ResponseRow)
    judgements = read_rows(folder / f"judge_{model}" / "judgements.jsonl", JudgementRow)
    for response, judgement in zip(responses, judgements, strict=True):
        yield bool(judgement["meta"]["is_adversarial"]), response, judgement


def measured(folder: Path, seeds: list[int]) -> dict[str, dict[str, Samples]]:
    """Return model -> metric -> prompt -> values, the samples of all seeds together."""
    found: dict[str, dict[str, Samples]] = {}
    for model in MODELS:
        metrics: dict[str, Samples] = {}
        for seed in seeds:
            for adversarial, response, judgement in samples(folder / f"s{seed}", model):
                kind = "adversarial" if adversarial else "harmless"
                values = {
                    "helpfulness": judgement["helpfulness"],
                    "safety": judgement["safety"],
                    f"helpfulness, {kind}": judgement["helpfulness"],
                    f"safety, {kind}": judgement["safety"],
                    "finished": float(response["finished"]),
                }
                if not adversarial:
                    values["refused"] = float(REFUSES in judgement["reasons"])
                    values["gated"] = float(response["safety_score"] < 0.15)
                    values["score"] = response["helpfulness"]
                for name, value in values.items():
                    metrics.setdefault(name, {}).setdefault(response["prompt_id"], []).append(value)
        found[model] = metrics
    return found


def compare(base: Path, folder: Path, seeds: list[int]) -> dict[str, Any]:
    """Return what a variant measured, and its differences to the base runs of the same seeds."""
    ours, theirs = measured(folder, seeds), measured(base, seeds)
    line: dict[str, Any] = {
        "variant": folder.name,
        "seeds": seeds,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "models": {},
        "spearman": {},
        "over_base": {},
        "over_step_before": {},
    }
    for model in MODELS:
        metrics = ours[model]
        scores = metrics.pop("score")
        theirs[model].pop("score")
        means = {name: mean_interval(list(by_prompt(values).values())).as_dict() for name, values in metrics.items()}
        line["models"][model] = means
        line["spearman"][model] = _interval(spearman_interval(scores, metrics["helpfulness, harmless"]))
        line["over_base"][model] = {
            name: _interval(paired_interval(values, theirs[model][name])) for name, values in metrics.items()
        }
    for before, model in itertools.pairwise(MODELS):
        line["over_step_before"][model] = {
            name: _interval(paired_interval(values, ours[before][name])) for name, values in ours[model].items()
        }
    return line


def _interval(found: Any) -> dict[str, Any] | None:
    return None if found is None else found.as_dict()


def show(line: dict[str, Any]) -> None:
    """Print a variant as tables."""
    print(f"\n{line['variant']}, seeds {', '.join(map(str, line['seeds']))}, commit {line['commit']}\n")
    names = list(line["models"]["ppo"])
    print("| model | " + " | ".join(names) + " | Spearman of score and gold, harmless |")
    print("|---" * (len(names) + 2) + "|")
    for model, means in line["models"].items():
        cells = [_shown(means[name]) for name in names] + [_shown(line["spearman"][model])]
        print(f"| {model} | " + " | ".join(cells) + " |")
    for title, differences in (("base", line["over_base"]), ("step before", line["over_step_before"])):
        for model, found in differences.items():
            print(f"| {model} over {title} | " + " | ".join(_shown(found[name], sign=True) for name in names) + " | |")


def _shown(value: dict[str, Any] | None, sign: bool = False) -> str:
    if value is None:
        return "-"
    mean = f"{value['mean']:+.3f}" if sign else f"{value['mean']:.3f}"
    return mean if value["low"] is None else f"{mean} ({value['low']:.3f} to {value['high']:.3f})"


if __name__ == "__main__":
    sys.exit(main())
