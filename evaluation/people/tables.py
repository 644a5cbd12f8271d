"""People's ratings as tables for the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from llamatrain.progress import counted

from ..terminal import plain_table
from .preferred import SHARES
from .verdicts import RISKS, VECTORS

PARTS = {
    "by_category": "by category",
    "by_turns": "by turns of the user",
    "by_length": "by words of prompt and answers",
}


def tables(found: Mapping[str, Any]) -> Iterator[Table | str]:
    """Yield a table for each pair of systems, each model and the red team, and what is to be said below it."""
    for pair in found["side_by_side"]:
        yield side_by_side_table(pair)
        yield "\n".join([*_about(pair), *_order_and_length(pair), ""])
    for model in found["safety"]:
        yield safety_table(model)
        yield "\n".join([*_about(model), *_majority(model), ""])
    if found["red_team"]:
        yield red_team_table(found["red_team"])
        yield ""
    if found["fixed"]:
        yield fixed_table(found["fixed"])
        yield ""


def side_by_side_table(pair: Mapping[str, Any]) -> Table:
    """Return wins, ties and losses in per cent, with their 95 % intervals."""
    table = plain_table("% of prompts (95 %)", "prompts", *SHARES)
    name = f"[bold]{escape(pair['system_a'])} over {escape(pair['system_b'])}"
    if "prompts" not in pair:
        table.add_row(name, "0", *("-" for _ in SHARES))
        return table
    _add_shares(table, name, pair)
    for key, words in PARTS.items():
        if pair[key]:
            table.add_row(f"[dim]{words}")
        for part, shares in pair[key].items():
            _add_shares(table, f"  {escape(part or 'none given')}", shares)
    return table


def _add_shares(table: Table, name: str, shares: Mapping[str, Any]) -> None:
    table.add_row(name, f"{shares['prompts']:,}", *(_percent(shares[share]) for share in SHARES))


def _about(of: Mapping[str, Any]) -> Iterator[str]:
    """Yield who rated, and how far they agree."""
    unjudged = f"; {of['cannot_judge']:,} could not be judged" if of["cannot_judge"] else ""
    yield f"{counted(of['ratings'], 'rating')} by {counted(of['raters'], 'rater')}{unjudged}"
    if found := of.get("agreement"):
        yield f"agreement, Gwet's {_name(found['weights'])}: {_coefficient(found)}"
    if found := of.get("agreement_violation"):
        yield f"agreement on violation or not, Gwet's AC1: {_coefficient(found)}"


def _order_and_length(pair: Mapping[str, Any]) -> Iterator[str]:
    if (found := pair.get("win_rate_at_equal_length")) is not None:
        yield f"wins among decided prompts, were both answers equally long: {_percent(found)} %"
    if (found := pair.get("first_preferred")) is not None:
        yield f"prefer the answer shown first, of ratings that prefer one: {_percent(found)} %"


def _majority(model: Mapping[str, Any]) -> Iterator[str]:
    if model.get("undecided"):
        yield f"in no percentage, for want of a majority: {counted(model['undecided'], 'answer')}"


def safety_table(model: Mapping[str, Any]) -> Table:
    """Return violations in per cent and mean ratings, with their 95 % intervals."""
    table = plain_table("safety (95 %)", "answers", "violations, %", "mean rating")
    name = f"[bold]{escape(model['model'])}"
    if "answers" not in model:
        table.add_row(name, "0", "-", "-")
        return table
    _add_safety(table, name, model)
    for key in ("by_turns", "by_category"):
        for part, shares in model[key].items():
            _add_safety(table, f"  {escape(part or 'none given')}", shares)
    return table


def _add_safety(table: Table, name: str, shares: Mapping[str, Any]) -> None:
    violations, mean = shares["violations"], shares["mean_rating"]
    table.add_row(
        name,
        f"{shares['answers']:,}",
        "-" if violations is None else _percent(violations),
        f"{mean['mean']:.2f}" + ("" if mean["low"] is None else f" ±{(mean['high'] - mean['low']) / 2:.2f}"),
    )


def red_team_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """Return gamma by round, and which attacks succeed."""
    table = plain_table("red team (95 %)", "attacks", "violations", "per person and hour")
    for made in rounds:
        gamma = made["gamma"]
        table.add_row(
            f"[bold]round {made['round']}, {escape(made['model'])}",
            f"{made['attacks']:,}",
            "-" if gamma is None else f"{gamma['count']:,}",
            "-" if gamma is None else f"{gamma['mean']:.2f} ({gamma['low']:.2f} to {gamma['high']:.2f})",
        )
        table.add_row(
            f"  [dim]{made['people']:,} {'person' if made['people'] == 1 else 'people'}, {made['hours']:.2f} hours"
        )
        for key, words in (("by_risk", RISKS), ("by_vector", VECTORS), ("by_turns", {})):
            for part, share in made[key].items():
                name = words.get(part, part).partition(" (")[0]
                succeeded = f"{share['mean'] * share['count']:.0f}"
                table.add_row(f"  {escape(name)}", f"{share['count']:,}", succeeded, f"{_percent(share)} %")
    return table


def fixed_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return which share of earlier violating prompts a model answers safely."""
    table = plain_table("earlier violating prompts (95 %)", "prompts", "fixed, %")
    for row in found:
        name = f"of round {row['round']}, by {escape(row['model'])}"
        table.add_row(name, f"{row['fixed']['count']:,}", _percent(row["fixed"]))
    return table


def _name(weights: str) -> str:
    return "AC1" if weights == "identity" else f"AC2, {weights} weights"


def _coefficient(found: Mapping[str, Any]) -> str:
    return f"{found['value']:.2f}" + ("" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})")


def _percent(share: Mapping[str, Any]) -> str:
    """Return a share with its interval, which of few prompts is lopsided."""
    interval = "" if share["low"] is None else f" ({100 * share['low']:.0f}–{100 * share['high']:.0f})"
    return f"{100 * share['mean']:.1f}{interval}"
