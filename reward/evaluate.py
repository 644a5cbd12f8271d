"""The card of a reward model: its accuracy on held-out preferences (paper 3.2.2), and what else they tell about it.

Overall, by rating, safety bin, file and length; beside it rules that need no model, and a second model where there is one
(`other`), so that both can be held against both kinds of preferences (tables 7 and 8); calibration, annotators' agreement,
and best of several. `pool` joins the scores of earlier evaluations instead, such as the five folds of a cross-validation:
every pair counts once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from llamatrain import atomic, checkpoint, distributed, hf_folder
from llamatrain.config.program import main
from llamatrain.data.cache import Cache
from llamatrain.data.rows import whole_source, write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.engine.zero import DTYPES
from llamatrain.errors import UserError, missing
from llamatrain.inputs import fingerprints
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.progress import Progress
from llamatrain.responses.pairs import Pairs, score_pairs
from llamatrain.run import Run
from llamatrain.text_files import read_json, read_lines
from llamatrain.tokenizer import Tokenizer

from .card.agreement import annotators, by_model, compared, mistakes, names_of
from .card.best_of import best_of
from .card.calibration import calibration, unsafe_found
from .card.rows import ScoredRow, Scores, join
from .card.rulers import by_length, correlations, rulers
from .card.table import figures, table
from .config import RewardEvaluateConfig
from .data import load_pairs, most_tokens
from .scoring import SHARES, report, score_means, score_statistics

SCORES, ACCURACY = "scores.jsonl", "accuracy.json"
MODELS = ("checkpoint", "other")


def evaluate(cfg: RewardEvaluateConfig) -> None:
    """Measure a reward model on held-out preferences."""
    parents = {key: checkpoint.resolve(path, "reward") for key in MODELS if (path := getattr(cfg, key))}
    with Run(cfg.run, "reward.evaluate", cfg, parents=parents, inputs=fingerprints(cfg)) as run:
        rows = score(cfg, parents, run) if parents else pooled(cfg.pool)
        found = card(rows, names_of(map(kind_of, parents.values())) if parents else names_in(cfg.pool))
        if run.is_main:
            write_rows(run.folder / SCORES, (asdict(row) for row in rows))
            atomic.write_json(run.folder / ACCURACY, found)
            Console().print(table(found, cfg.run.name))
        means = {key.removeprefix("eval/"): mean for key, mean in score_means(rows).items()}
        run.log(0, {**flat(found), **means})


def card(rows: Sequence[ScoredRow], names: Sequence[str]) -> dict[str, Any]:
    """Return all that is known of the first model, and of the second beside it; `figures` are what the report lists in words."""
    found: dict[str, Any] = {
        **report(rows),
        "by_length": by_length(rows),
        "rulers": rulers(rows),
        "models": by_model(rows, names),
        "compared": compared(rows),
        "unsafe": unsafe_found(rows),
        "calibration": calibration(rows),
        "correlation": correlations(rows),
        "annotators": annotators(rows),
        "best_of": best_of(rows),
        "scores": score_statistics(rows),
        "mistakes": mistakes(rows),
    }
    return {**found, "figures": list(figures(found))}


def score(cfg: RewardEvaluateConfig, folders: Mapping[str, Path], run: Run) -> list[ScoredRow]:
    """Score the pairs of all preferences files with one or two checkpoints."""
    models = [_model(cfg, key, folder) for key, folder in folders.items()]
    tokenizers = [hf_folder.load_tokenizer(folder, cfg.tokenizer) for folder in folders.values()]
    first = tokenizers[0]
    if any(other.fingerprint != first.fingerprint for other in tokenizers):
        raise UserError(f"other={cfg.other} has another tokenizer than checkpoint={cfg.checkpoint}; need the same")
    max_length = min(most_tokens(folder, cfg.max_length) for folder in folders.values())
    found: list[ScoredRow] = []
    for path in cfg.preferences:
        pairs = _pairs(cfg, path, first, max_length, run)
        with run.progress(len(pairs) * len(models), "scoring", "pairs") as bar:

            def on_done(count: int, bar: Progress = bar) -> None:
                bar.update(count)
                run.leave_if_asked()  # all ranks make as many passes

            scores: list[Scores] = [
                score_pairs(model, pairs, max_length, cfg.micro_batch_size, on_done) for model in models
            ]
        found += join(path, pairs, scores[0], scores[1] if len(scores) > 1 else None, BadRows(cfg.bad_rows))
    return found


def _model(cfg: RewardEvaluateConfig, key: str, folder: Path) -> ScalarModel:
    model = hf_folder.load_model(folder, distributed.device(), DTYPES[cfg.dtype])
    if not isinstance(model, ScalarModel):
        raise UserError(
            f"{key}={getattr(cfg, key)} is a language model; need a reward model (`llamatrain reward` makes one)"
        )
    return model.eval()


def _pairs(cfg: RewardEvaluateConfig, path: str, tokenizer: Tokenizer, max_length: int, run: Run) -> Pairs:
    bad = BadRows(cfg.bad_rows)
    pairs, dropped = load_pairs(path, tokenizer, max_length, cfg.too_long, bad=bad, cached=Cache.of(cfg.run))
    bad.say(run.print)
    if dropped:
        run.print(dropped.lines(path, len(pairs)))
    return pairs


def kind_of(folder: Path) -> str | None:
    """Return which of the two reward models a checkpoint is; None where it does not say."""
    file = folder / "llamatrain.json"
    if not file.exists():
        return None
    kind = checkpoint.lineage(folder)["config"].get("kind")
    return kind if isinstance(kind, str) else None


def pooled(paths: Sequence[str]) -> list[ScoredRow]:
    """Join scores.jsonl files (or the run folders that hold them); UserError where a pair occurs twice."""
    results: dict[tuple[str, int, int], ScoredRow] = {}
    for path in paths:
        file = Path(path) / SCORES if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise missing(file, "reward.evaluate")
        for number, result in enumerate(read_lines(file, ScoredRow, "`llamatrain reward.evaluate` makes it"), 1):
            # Folds that overlap would count some pairs twice, and the interval would look too narrow.
            pair = whole_source(result.source), result.row, result.nth
            if pair in results:
                raise UserError(f"{file}:{number}: row {result.row} of {pair[0]} is scored twice in the pool")
            results[pair] = result
    if not results:
        raise UserError(f"pool={','.join(paths)}: there is no scored pair in it; need one at least")
    return list(results.values())


def names_in(paths: Sequence[str]) -> list[str]:
    """Return what the models of pooled evaluations are called there."""
    for path in paths:
        file = (Path(path) if Path(path).is_dir() else Path(path).parent) / ACCURACY
        if file.is_file():
            models = read_json(file, dict[str, Any], "`llamatrain reward.evaluate` makes it").get("models")
            if isinstance(models, dict):
                return list(models)
    return names_of((None, None))


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Return a card's main figures for metrics.jsonl."""
    numbers = {"accuracy": found["overall"]["accuracy"]}
    parts = found["by_rating"] | found["by_bin"] | {f"{name}_wins": part for name, part in found["rulers"].items()}
    numbers |= {f"accuracy_{name}": part["accuracy"] for name, part in parts.items()}
    numbers |= {f"calibration_error_{name}": one["ece"] for name, one in found["calibration"].items()}
    return numbers | {key: found["threshold"][key] for key in SHARES if found["threshold"][key] is not None}


if __name__ == "__main__":
    main("reward.evaluate", RewardEvaluateConfig, evaluate)
