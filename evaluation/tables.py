"""An evaluation as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from .measures import COMPARED, PLAIN

NAMES = {
    "score_helpfulness": "helpfulness score",
    "score_safety": "safety score",
    "score_combined": "combined score",
    "bits_per_byte": "bits per byte",
}
TEXT = ("perplexity", "bits_per_byte")


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the models and, where there are any, the comparisons."""
    return [models_table(found), *([comparisons_table(found["comparisons"])] if found["comparisons"] else [])]


def models_table(found: dict[str, Any]) -> Table:
    """Return means with half their 95 % interval, a model a column: over all prompts, then by kind."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in found["models"]:
        table.add_column(name, justify="right")
    groups = {f"all {found['prompts']:,} prompts": found["models"]} if found["prompts"] else {"": found["models"]}
    groups |= {f"{part['prompts']:,} {kind} prompts": part["models"] for kind, part in found["by_kind"].items()}
    for title, models in groups.items():
        table.add_row(f"[bold]{title}" if title else "")
        for metric in (*COMPARED, *PLAIN, *TEXT):
            if any(metric in means for means in models.values()):
                table.add_row(NAMES.get(metric, metric), *(_mean(means.get(metric)) for means in models.values()))
    return table


def comparisons_table(rows: list[dict[str, Any]]) -> Table:
    """Return paired differences and win rates with their 95 % intervals, over all prompts."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("95 % intervals over prompts")
    for name in ("difference", "win rate", "ties"):
        table.add_column(name, justify="right")
    last = None
    for row in rows:
        versus = f"{row['model']} over {row['baseline']}"
        if versus != last:
            table.add_row(f"[bold]{versus}")
        last = versus
        metric = NAMES.get(row["metric"], row["metric"])
        table.add_row(metric, _difference(row), _wins(row), f"{row['ties']:,}")
    return table


def _mean(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, dict):
        return f"{value:.3f}" if value < 100 else f"{value:,.1f}"
    return f"{value['mean']:.3f}{_half(value)}"


def _difference(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.3f}{_half(row)}"


def _half(value: dict[str, Any]) -> str:
    return "" if value["low"] is None else f" ±{(value['high'] - value['low']) / 2:.3f}"


def _wins(row: dict[str, Any]) -> str:
    if row["win_rate"] is None:
        return "-"
    return f"{row['win_rate']:.3f} ({row['win_low']:.3f} to {row['win_high']:.3f})"
