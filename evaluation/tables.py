"""An evaluation as tables for the terminal: what the gold judge says first, then what the reward models say."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from llamatrain.progress import counted

from .config import RECALLED
from .terminal import plain_table

SCORES = {"score_helpfulness": "helpfulness", "score_safety": "safety", "score_combined": "combined"}
AGREEMENT = {"spearman_helpfulness": "helpfulness", "spearman_safety": "safety"}
RESPONSES = {
    "refused": "over-refusals",
    "declined": "refusals by wording",
    "gated": "scored unsafe",
    "finished": "finished",
    "length": "length in words",
}
TEXT = {"perplexity": "perplexity", "bits_per_byte": "bits per byte"}
RECALL = {f"recall_turn_{turn}": f"at turn {turn}" for turn in RECALLED}
GROUPS = {  # who says so -> metric -> its name there
    "by the gold judge": {"helpfulness": "helpfulness", "safety": "safety"},
    "by the reward models": SCORES,
    "Spearman with judge": AGREEMENT,
    "of the responses": RESPONSES,
    "instruction recalled": RECALL,
    "on held-out text": TEXT,
}
NOTE = (
    "The reward models' scores are logits: without folds the training signal's own view. These models saw only what fine-tuned models answer, "
    "so a pretrained model's responses are not scored here."
)


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the models and, where there are any, the comparisons."""
    return [models_table(found), *([comparisons_table(found["comparisons"])] if found["comparisons"] else [])]


def models_table(found: dict[str, Any]) -> Table:
    """Return means with half their 95 % interval, a model a column: over all prompts, then by kind."""
    models = found["models"]
    scored = any(metric in means for means in models.values() for metric in SCORES)
    table = plain_table("", *map(escape, models), caption=NOTE if scored else None)
    parts = {f"all {counted(found['prompts'], 'prompt')}": models} if found["prompts"] else {"": models}
    for kind, part in found["by_kind"].items():
        parts[counted(part["prompts"], f"{kind} prompt")] = part["models"]
    for title, measured in parts.items():
        if title:
            table.add_row(f"[bold]{title}")
        for group, names in GROUPS.items():
            metrics = {name: words for name, words in names.items() if any(name in m for m in measured.values())}
            if metrics:
                table.add_row(f"[dim]{group}")
            for name, words in metrics.items():
                digits = 2 if name in SCORES else 3  # logits are larger numbers than shares
                table.add_row(f"  {words}", *(_mean(means.get(name), digits) for means in measured.values()))
                if name in RECALL:  # fewer reach a later turn: what is recalled there is of other dialogues
                    table.add_row("    dialogues", *(_count(means.get(name)) for means in measured.values()))
    return table


def comparisons_table(rows: list[dict[str, Any]]) -> Table:
    """Return paired differences and win rates with their 95 % intervals, over all prompts."""
    table = plain_table("95 % intervals over prompts", "difference", "win rate", "ties")
    last = None
    for row in rows:
        versus = f"{row['model']} over {row['baseline']}"
        if versus != last:
            table.add_row(f"[bold]{escape(versus)}")
        last = versus
        table.add_row(f"  {_whose(row['metric'])}", _difference(row), _wins(row), f"{row['ties']:,}")
    return table


def _whose(metric: str) -> str:
    return f"{SCORES[metric]}, reward models" if metric in SCORES else f"{metric}, gold judge"


def _mean(value: Any, digits: int) -> str:
    if value is None:
        return "-"
    if not isinstance(value, dict):
        return f"{value:.{digits}f}" if value < 100 else f"{value:,.1f}"
    return f"{value['mean']:.{digits}f}{_half(value, digits)}"


def _count(interval: dict[str, Any] | None) -> str:
    return "-" if interval is None else f"{interval['count']:,}"


def _difference(row: dict[str, Any]) -> str:
    digits = 2 if row["metric"] in SCORES else 3
    return f"{row['difference']:+.{digits}f}{_half(row, digits)}"


def _half(value: dict[str, Any], digits: int) -> str:
    return "" if value["low"] is None else f" ±{(value['high'] - value['low']) / 2:.{digits}f}"


def _wins(row: dict[str, Any]) -> str:
    if row["win_rate"] is None:
        return "-"
    return f"{row['win_rate']:.3f} ({row['win_low']:.3f} to {row['win_high']:.3f})"
