"""Measure a reward model on held-out preferences: accuracy overall, by rating, by safety bin and by file (paper 3.2.2).

`pool` joins the scores of earlier evaluations instead, such as the five folds of a cross-validation: every pair
counts once.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llamatrain import atomic, checkpoint, distributed, hf_folder
from llamatrain.config.program import main
from llamatrain.data.rows import whole_source, write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.engine.zero import DTYPES
from llamatrain.errors import UserError, missing
from llamatrain.inputs import fingerprints
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.progress import Progress
from llamatrain.responses.pairs import score_pairs
from llamatrain.run import Run
from llamatrain.text_files import read_lines

from .config import RewardEvaluateConfig
from .data import load_pairs, most_tokens
from .scoring import SHARES, Scored, report, score_means, scored

SCORES, ACCURACY = "scores.jsonl", "accuracy.json"


def evaluate(cfg: RewardEvaluateConfig) -> None:
    """Measure a reward model on held-out preferences."""
    parents = {"checkpoint": checkpoint.resolve(cfg.checkpoint, "reward")} if cfg.checkpoint else {}
    with Run(cfg.run, "reward.evaluate", cfg, parents=parents, inputs=fingerprints(cfg)) as run:
        results = score(cfg, parents["checkpoint"], run) if cfg.checkpoint else pooled(cfg.pool)
        found = report(results)
        if run.is_main:
            write_rows(run.folder / SCORES, (asdict(result) for result in results))
            atomic.write_json(run.folder / ACCURACY, found)
            Console().print(table(found, cfg.run.name))
        run.log(0, {**flat(found), **{key.removeprefix("eval/"): mean for key, mean in score_means(results).items()}})


def score(cfg: RewardEvaluateConfig, folder: Path, run: Run) -> list[Scored]:
    """Score the pairs of all preferences files with the checkpoint."""
    model = hf_folder.load_model(folder, distributed.device(), DTYPES[cfg.dtype])
    if not isinstance(model, ScalarModel):
        raise UserError(
            f"checkpoint={cfg.checkpoint} is a language model; need a reward model (`llamatrain reward` makes one)"
        )
    tokenizer = hf_folder.load_tokenizer(folder, cfg.tokenizer)
    max_length = most_tokens(folder, cfg.max_length)
    results: list[Scored] = []
    for path in cfg.preferences:
        bad = BadRows(cfg.bad_rows)
        pairs, dropped = load_pairs(path, tokenizer, max_length, cfg.too_long, bad=bad)
        bad.say(run.print)
        if dropped:
            run.print(dropped.lines(path, len(pairs)))
        with run.progress(len(pairs), "scoring", "pairs") as bar:

            def on_done(count: int, bar: Progress = bar) -> None:
                bar.update(count)
                run.leave_if_asked()  # all ranks make as many passes

            results += scored(pairs, score_pairs(model.eval(), pairs, max_length, cfg.micro_batch_size, on_done))
    return results


def pooled(paths: list[str]) -> list[Scored]:
    """Join scores.jsonl files (or the run folders that hold them); UserError where a pair occurs twice."""
    results: dict[tuple[str, int], Scored] = {}
    for path in paths:
        file = Path(path) / SCORES if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise missing(file, "reward.evaluate")
        for number, result in enumerate(read_lines(file, Scored, "`llamatrain reward.evaluate` makes it"), 1):
            # Folds that overlap would count some pairs twice, and the interval would look too narrow.
            pair = whole_source(result.source), result.row
            if pair in results:
                raise UserError(f"{file}:{number}: row {result.row} of {pair[0]} is scored twice in the pool")
            results[pair] = result
    if not results:
        raise UserError(f"pool={','.join(paths)}: there is no scored pair in it; need one at least")
    return list(results.values())


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Return a report's main figures for metrics.jsonl."""
    numbers = {"accuracy": found["overall"]["accuracy"]}
    numbers |= {f"accuracy_{name}": part["accuracy"] for name, part in (found["by_rating"] | found["by_bin"]).items()}
    return numbers | {key: found["threshold"][key] for key in SHARES if found["threshold"][key] is not None}


def table(found: dict[str, Any], title: str) -> Table:
    """Return the report as a table for the terminal."""
    shown = Table(title=escape(f"accuracy of {title}"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("pairs of", "accuracy", "95 % interval", "pairs"):
        shown.add_column(name, justify="left" if name == "pairs of" else "right")
    files = found["by_file"] if len(found["by_file"]) > 1 else {}
    for group in ({"all": found["overall"]}, found["by_rating"], found["by_bin"], files):
        for name, part in group.items():
            shown.add_row(
                escape(name),
                f"{part['accuracy']:.3f}",
                f"{part['low']:.3f} to {part['high']:.3f}",
                f"{part['pairs']:,}",
            )
        shown.add_section()
    for key, whole in zip(SHARES, ("unsafe", "safe"), strict=True):
        if found["threshold"][key] is not None:
            shown.add_row(key, f"{found['threshold'][key]:.3f}", "", f"{found['threshold'][whole]:,}")
    return shown


if __name__ == "__main__":
    main("reward.evaluate", RewardEvaluateConfig, evaluate)
