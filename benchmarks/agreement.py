"""Where helpfulness scores agree with the gold judge: their rank correlation on harmless prompts, by task, in a finished demo.

python benchmarks/agreement.py runs/demo --models sft rs_v1 ppo
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

from recorded import ROOT, add, ends

sys.path.insert(0, str(ROOT))

from llamatrain.data.kinds import JudgementRow, PromptRow, ResponseRow
from llamatrain.data.rows import read_rows
from llamatrain.statistics import by_group, spearman_interval

ALL = "all"


def main() -> int:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--models", nargs="+", default=["sft", "rs_v1", "ppo"])
    options = parser.parse_args()
    prompts = read_rows(str(options.demo / "world" / "prompts_eval.jsonl"), PromptRow)
    tasks = {row["id"]: str(row["meta"]["task"]) for row in prompts if not row["is_adversarial"]}
    found = {name: of_model(options.demo, name, tasks) for name in options.models}
    add("agreement", {"models": found})
    print(f"| task | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for task in (ALL, *sorted({*tasks.values()} & {*next(iter(found.values()))})):
        cells = [
            f"{gold:.2f}, {rho:.2f} ({low:.2f} to {high:.2f})"
            for gold, (rho, low, high) in (t[task] for t in found.values())
        ]
        print(f"| {task.replace('_', ' ')} | {' | '.join(cells)} |")
    return 0


def of_model(demo: Path, name: str, tasks: dict[str, str]) -> dict[str, tuple[float, list[float] | None]]:
    """Return task -> the judge's mean helpfulness, and the rank correlation of scores with it."""
    responses = list(read_rows(str(demo / f"sample_{name}" / "responses.jsonl"), ResponseRow))
    judged = list(read_rows(str(demo / f"judge_{name}" / "judgements.jsonl"), JudgementRow))
    rows = [
        (row["prompt_id"], row["helpfulness"], gold["helpfulness"])
        for row, gold in zip(responses, judged, strict=True)
        if row["prompt_id"] in tasks
    ]
    found = {}
    for task in (ALL, *{tasks[prompt] for prompt, _, _ in rows}):
        part = [row for row in rows if task in (tasks[row[0]], ALL)]
        scores, golds = (by_group((row[0], row[place]) for row in part) for place in (1, 2))
        found[task] = (round(fmean(row[2] for row in part), 4), ends(spearman_interval(scores, golds)))
    return found


if __name__ == "__main__":
    sys.exit(main())
