"""PPO against reward models of three strengths: where their score goes on rising and the gold judge's falls (Gao et al. 2022).

    python benchmarks/over_optimisation.py run --demo runs/demo --root runs/over_optimisation --seeds 0 1 2
    python benchmarks/over_optimisation.py run --demo runs/demo --root runs/over_optimisation_half --scorer half
    python benchmarks/over_optimisation.py show

From a finished demo come the SFT model, which PPO starts from without a KL penalty, its pairs and its harmless prompts. A reward
model is trained on a share of the pairs; another scores the answers to held-out prompts, by which a run can stop. It is trained on
other pairs, on as many or, with `--scorer half`, on half of all. All run to their end, and what they log
(`ppo/since_best`) says where they would have stopped. PPO's rollouts are
judged. A line per seed goes to results/over_optimisation.jsonl, with the fit of R(d) = R(0) + d (a - b ln d), d the root of the KL
divergence; a seed that has one for this commit is passed over. About ten minutes of processor time per seed. `show` prints the lines and draws docs/over_optimisation.svg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from chain import commit
from recorded import ROOT, add, lines_of, start, svg

sys.path.insert(0, str(ROOT))

import numpy as np

from evaluation.measures import logit
from launch.report.figures import Line, line_chart
from llamatrain.data.kinds import JudgementRow, PromptRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.statistics import Z95

T = TypeVar("T")
NAME = "over_optimisation"
PARTS = {"weak": 16, "middle": 4, "strong": 2}  # strength -> one of so many parts of the pairs
ITERATIONS, EVERY, ROLLOUTS, PATIENCE = 60, 5, 64, 3  # of PPO; evaluations without a better one
GUARDS = ("kl_per_token", "entropy_fraction", "length_growth", "unfinished_rise", "ratio", "value_loss")
SCORERS = ("share", "half")  # of the other pairs: as many as the reward model that is learned from had, or half of all
PICTURE = ROOT / "docs" / "over_optimisation.svg"


def main() -> int:
    """Run, or show what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "show"))
    parser.add_argument("--demo", type=Path, help="a finished demo")
    parser.add_argument("--root", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=1, help="strengths that are trained at the same time")
    parser.add_argument(
        "--scorer", choices=SCORERS, default=SCORERS[0], help="what it learned from that scores held-out answers"
    )
    options = parser.parse_args()
    if options.command == "run":
        if options.demo is None or options.root is None:
            parser.error("need --demo, a finished demo, and --root, the folder of the runs")
        known = {(line["seed"], _scorer(line), line["commit"]) for line in lines_of(NAME)}
        for seed in options.seeds:
            if (seed, options.scorer, commit()) not in known:
                folder = options.root.resolve() / f"s{seed}"
                found = run(options.demo.resolve(), folder, seed, options.scorer, options.at_once)
                add(NAME, {"seed": seed, "scorer": options.scorer, **found})
    show()
    return 0


# --- a seed ------------------------------------------------------------------------------------------------------


def run(demo: Path, own: Path, seed: int, scorer: str, at_once: int) -> dict[str, Any]:
    """Train against each strength and judge it; return what a line tells."""
    own.mkdir(parents=True, exist_ok=True)
    rows = read_rows(demo / "world" / "prompts.jsonl", PromptRow)
    write_rows(own / "prompts.jsonl", (row for row in rows if not row["is_adversarial"]))
    with ThreadPoolExecutor(at_once) as threads:
        if scorer == "half":
            reward_model(demo, own, seed, "half", "fold1/2")
        strengths = threads.map(lambda name: strength(demo, own, seed, name, scorer), PARTS)
        found = dict(zip(PARTS, strengths, strict=True))
    return {"strengths": found}


def strength(demo: Path, own: Path, seed: int, name: str, scorer: str) -> dict[str, Any]:
    """Train a reward model of a strength, what scores held-out answers, and PPO, and judge its rollouts."""
    trained = reward_model(demo, own, seed, f"{name}_0", f"fold0/{PARTS[name]}")
    other = (
        own / "reward_half" if scorer == "half" else reward_model(demo, own, seed, f"{name}_1", f"fold1/{PARTS[name]}")
    )
    policy(demo, own, seed, name, trained, other)
    start("judge", f"run.dir={own}", f"run.name=judge_{name}", f"world={demo}/world",
          f"responses={own}/ppo_{name}/samples.jsonl")  # fmt: skip
    accuracy = [series(folder, "eval/accuracy")[-1][1] for folder in (trained, other)]
    return {"accuracy": accuracy, **course(own / f"ppo_{name}", own / f"judge_{name}")}


def reward_model(demo: Path, own: Path, seed: int, name: str, share: str) -> Path:
    """Train a helpfulness reward model on a share of the demo's pairs."""
    pairs = demo / "v1_rate" / "preferences_helpfulness"
    start("reward", "preset=demo", "kind=helpfulness", f"run.dir={own}", f"run.name=reward_{name}", f"run.seed={seed}",
          f"checkpoint={demo}/sft/final", f"train=['{pairs}.jsonl@{share}']", f"eval=[{pairs}_eval.jsonl]")  # fmt: skip
    return own / f"reward_{name}"


def policy(demo: Path, own: Path, seed: int, name: str, trained: Path, other: Path) -> None:
    """Run PPO against a reward model alone, followed on held-out prompts by another one."""
    start("ppo", "preset=demo", f"run.dir={own}", f"run.name=ppo_{name}", f"run.seed={seed}", f"checkpoint={demo}/sft/final",
          f"helpfulness={trained}/final", f"safety={demo}/v1_reward_safety/final", f"prompts=[{own}/prompts.jsonl]",
          "gate.models=helpfulness", "kl_coef=0", "optim.lr=3e-4", f"iterations={ITERATIONS}", f"rollout_prompts={ROLLOUTS}",
          f"mini_batch_prompts={ROLLOUTS}", "samples_every=1", f"samples_kept={ROLLOUTS}", "hold_out=128",
          "eval_temperature=1", f"run.eval_every={EVERY}", f"eval_helpfulness={other}/final",
          *(f"guards.{guard}=null" for guard in GUARDS))  # fmt: skip


def _scorer(line: dict[str, Any]) -> str:
    return str(line.get("scorer", "share"))


def series(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return (step, value) of a metric, of the steps that have it."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row[metric]) for row in rows if metric in row]


def course(folder: Path, judged: Path) -> dict[str, Any]:
    """Return KL, score and gold score by iteration, the fits, and where held-out scores and the gold judge would stop."""
    steps: dict[int, list[tuple[float, float, float]]] = {}
    rows = map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
    for row, mark in zip(rows, read_rows(judged / "judgements.jsonl", JudgementRow), strict=True):
        steps.setdefault(row["step"], []).append((row["kl"], logit(row["helpfulness"]), mark["helpfulness"]))
    means = [tuple(map(fmean, zip(*own, strict=True))) for own in steps.values()]
    kl, score, gold = (list(column) for column in zip(*means, strict=True))
    held_out, since = series(folder, "eval/score_combined"), series(folder, "ppo/since_best")
    windows = {step: _around(gold, step) for step, _ in since}
    best = max(windows, key=lambda step: windows[step])
    stopped, ended = stop(since, PATIENCE)
    marks = [[mark for _, _, mark in own] for own in steps.values()]
    return {
        "kl": _rounded(kl),
        "score": _rounded(score),
        "gold": _rounded(gold),
        "held_out": [(step, round(value, 3)) for step, value in held_out],
        "since_best": [(step, int(count)) for step, count in since],
        "fit": {"score": fitted(kl, score), "gold": fitted(kl, gold)},
        "gold_best": {"step": best, "gold": round(windows[best], 4), "kl": round(_around(kl, best), 3)},
        "held_out_best": {
            "step": stopped,
            "ended": ended,
            "gold": round(windows[stopped], 4),
            "kl": round(_around(kl, stopped), 3),
            "below_gold_best": [0.0] * 3 if best == stopped else difference(_near(marks, best), _near(marks, stopped)),
        },
        "last": {"step": len(gold), "gold": round(fmean(gold[-EVERY:]), 4), "kl": round(fmean(kl[-EVERY:]), 3)},
    }


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _near(values: list[T], step: int) -> list[T]:
    """Return the values of the iterations around an evaluation, nearer to it than to the next."""
    return values[max(0, step - 1 - EVERY // 2) : step + EVERY // 2]


def _around(values: list[float], step: int) -> float:
    return fmean(_near(values, step))


def difference(ones: list[list[float]], others: list[list[float]]) -> list[float]:
    """Return the difference of two means, of responses to different prompts, and the ends of its 95 % interval."""
    one, other = (np.array([mark for marks in own for mark in marks]) for own in (ones, others))
    mean = float(one.mean() - other.mean())
    half = Z95 * float(np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other)))
    return _rounded([mean, mean - half, mean + half])


def stop(since: list[tuple[int, float]], patience: int) -> tuple[int, int]:
    """Return the step of the best measurement when a run with this patience ends, and the step at which it does."""
    ended = next((step for step, count in since if count >= patience), since[-1][0])
    return max(step for step, count in since if count == 0 and step <= ended), ended


def fitted(kl: list[float], values: list[float]) -> dict[str, float]:
    """Return the least-squares fit of R(0), a and b in R(d) = R(0) + d (a - b ln d), and the d at which it is highest."""
    d = np.sqrt(np.maximum(np.array(kl), 1e-6))
    zero, a, b = (
        float(x)
        for x in np.linalg.lstsq(np.stack([np.ones_like(d), d, -d * np.log(d)], axis=1), np.array(values), rcond=None)[
            0
        ]
    )
    found = {"zero": round(zero, 4), "a": round(a, 4), "b": round(b, 4)}
    return found | ({"best_d": round(float(np.exp(a / b - 1)), 3)} if b > 0 else {})


# --- what is shown -----------------------------------------------------------------------------------------------


def show() -> None:
    """Print the newest line of each seed and scorer, and draw the curves, which do not depend on the scorer."""
    found = {(line["seed"], _scorer(line)): line["strengths"] for line in lines_of(NAME)}
    print(
        "| seed | scorer's pairs | reward model | accuracy | gold, start | gold, best | at KL | at iteration | held-out scores stop at | gold there | below the best by | gold, last | KL, last |"
    )
    print("|---" * 13 + "|")
    for (seed, scorer), strengths in found.items():
        for name, own in strengths.items():
            top, early, last = own["gold_best"], own["held_out_best"], own["last"]
            below = "{:.3f} ({:+.3f} to {:+.3f})".format(*early["below_gold_best"])
            cells = [f"{own['accuracy'][0]:.3f}", f"{fmean(own['gold'][:EVERY]):.3f}", f"{top['gold']:.3f}", f"{top['kl']:.2f}", top["step"],
                     early["step"], f"{early['gold']:.3f}", below, f"{last['gold']:.3f}", f"{last['kl']:.2f}"]  # fmt: skip
            print(f"| {seed} | {scorer} | {name} | " + " | ".join(map(str, cells)) + " |")
    draw([strengths for (_, scorer), strengths in found.items() if scorer == SCORERS[0]])


def draw(found: list[dict[str, Any]]) -> None:
    """Draw score and gold score over the root of the KL divergence, of all seeds together."""
    drawn = []
    for title, key, label in (
        ("Gold judge", "gold", "gold score"),
        ("Its reward model", "score", "mean logit"),
    ):
        lines = []
        for colour, name in enumerate(PARTS, 1):
            for strengths in found:
                own = strengths[name]
                points = [
                    (float(np.sqrt(max(0.0, fmean(k)))), fmean(v))
                    for k, v in zip(_windows(own["kl"]), _windows(own[key]), strict=True)
                ]
                lines.append(Line(name, sorted(points), colour))
        legend = list(zip(PARTS, itertools.count(1), strict=False))
        drawn.append((title, legend, line_chart(lines, "root of the KL divergence", label, title)))
    PICTURE.write_text(svg(drawn))
    print(f"\nwrote {PICTURE.relative_to(ROOT)}")


def _windows(values: list[float]) -> list[list[float]]:
    return [values[start : start + EVERY] for start in range(0, len(values), EVERY)]


if __name__ == "__main__":
    sys.exit(main())
