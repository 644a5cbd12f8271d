"""An evaluation as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from .measures import COMPARED, PLAIN

TITLES = {
    "helpfulness": "helpfulness",
    "safety": "safety",
    "score_helpfulness": "helpfulness score",
    "score_safety": "safety score",
    "score_combined": "combined score",
}
EXTRA = ("perplexity", "bits_per_byte", *PLAIN)


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the models (over all prompts and by kind) and the comparisons."""
    per_prompt = f"{found['prompts']:,} prompts, up to {found['samples_per_prompt']} samples each"
    shown = [models_table(found["models"], f"models ({per_prompt})" if found["prompts"] else "models")]
    for kind, part in found["by_kind"].items():
        shown.append(models_table(part["models"], f"on {part['prompts']:,} {kind} prompts"))
    if found["comparisons"]:
        shown.append(comparisons_table(found["comparisons"]))
    return shown


def models_table(models: dict[str, dict[str, Any]], title: str) -> Table:
    """Return means with half their 95 % interval, a model a line, with the columns that any model has."""
    metrics = [metric for metric in (*COMPARED, *EXTRA) if any(metric in means for means in models.values())]
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for metric in metrics:
        table.add_column(TITLES.get(metric, metric.replace("_", " ")), justify="right")
    for name, means in models.items():
        table.add_row(name, *(_cell(means.get(metric)) for metric in metrics))
    return table


def comparisons_table(rows: list[dict[str, Any]]) -> Table:
    """Return paired differences and win rates with their 95 % intervals."""
    table = Table(title="differences and win rates, with 95 % intervals over prompts", title_justify="left")
    for name in ("comparison", "metric", "difference", "win rate", "ties"):
        table.add_column(name, justify="left" if name in ("comparison", "metric") else "right")
    for row in rows:
        difference = f"{row['difference']:+.3f}" + _range(row["low"], row["high"])
        wins = "-" if row["win_rate"] is None else f"{row['win_rate']:.3f}" + _range(row["win_low"], row["win_high"])
        versus = f"{row['model']} - {row['baseline']}"
        table.add_row(versus, TITLES[row["metric"]], difference, wins, f"{row['ties']:,}")
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, dict):
        return f"{value:.3f}" if value < 100 else f"{value:,.1f}"
    half = "" if value["low"] is None else f" ±{(value['high'] - value['low']) / 2:.3f}"
    return f"{value['mean']:.3f}{half}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
