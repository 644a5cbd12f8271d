"""A suite's results: the mean of each group's members, with intervals, and the table beside the paper's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from llamatrain.statistics import wilson

from ..terminal import plain_table
from .suites import Group, Member

Found = Mapping[str, Any]  # what `harness.measure` found of a task
REFERENCE = (
    "7B to 70B are Llama 2's own figures (paper table 3), from another, undisclosed set-up: other prompts, perhaps other "
    "rows. They are a reference, no comparison."
)


def member_score(member: Member, tasks: Mapping[str, Found]) -> dict[str, Any]:
    """Return a member's score over all rows of its tasks, with Wilson's 95 % interval."""
    rows = sum(found["rows"] for found in tasks.values())
    score = sum(found["rows"] * counts(found, member.metric) for found in tasks.values()) / rows
    low, high = wilson(min(1.0, max(0.0, score)), rows)
    return {
        "name": member.name,
        "shots": member.shots,
        "metric": member.metric,
        "rows": rows,
        "score": score,
        "low": low,
        "high": high,
        "tasks": {name: dict(found) for name, found in tasks.items()},
    }


def counts(found: Found, metric: str) -> float:
    """Return the metric that counts; of a metric without its filter the one there is."""
    metrics: Mapping[str, float] = found["metrics"]
    if metric in metrics:
        return metrics[metric]
    (key,) = (key for key in metrics if key.partition(",")[0] == metric)
    return metrics[key]


def group_score(group: Group, members: Sequence[Mapping[str, Any]], whole: Group, left_out: str) -> dict[str, Any]:
    """Return a group's mean over its members, where all of the `whole` group are measured, with a 95 % interval.

    The members' errors are independent: the halves of their intervals add up as squares. `left_out` is why members are missing.
    """
    found: dict[str, Any] = {"name": group.name, "title": group.title, "paper": group.paper, "members": list(members)}
    if len(members) == len(whole.members):
        score = sum(member["score"] for member in members) / len(members)
        half = sum(((member["high"] - member["low"]) / 2) ** 2 for member in members) ** 0.5 / len(members)
        if len(members) == 1:
            found |= {key: members[0][key] for key in ("score", "low", "high")}
        else:
            found |= {"score": score, "low": max(0.0, score - half), "high": min(1.0, score + half)}
    elif left_out:
        found["left_out"] = left_out
    return found


def metrics(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the scores for metrics.jsonl: benchmark/<group>, benchmark/<group>/<member>."""
    numbers = {}
    for group in groups:
        if "score" in group:
            numbers[f"benchmark/{group['name']}"] = group["score"]
        for member in group["members"]:
            numbers[f"benchmark/{group['name']}/{member['name']}"] = member["score"]
    return numbers


def table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return the groups with their members, in percent, beside the paper's figures by model size."""
    sizes = list(dict.fromkeys(size for group in groups for size in group["paper"]))
    made = plain_table("in %, with 95 % intervals", "shots", "rows", "score", *sizes, caption=REFERENCE)
    for column in made.columns[1:]:  # where a terminal is narrow the words go on below, and the figures stay whole
        column.no_wrap = True
    for group in groups:
        paper = [f"[dim]{group['paper'][size]:.1f}" if size in group["paper"] else "" for size in sizes]
        score = _percent(group) if "score" in group else "-"
        made.add_row(f"[bold]{group['title']}", "", "", f"[bold]{score}", *paper)
        for member in group["members"]:
            name = f"  {member['name']} [dim]({member['metric'].partition(',')[0]})"
            made.add_row(name, str(member["shots"]), f"{member['rows']:,}", _percent(member), *[""] * len(sizes))
        if "left_out" in group:
            made.add_row(f"  [dim]{group['left_out']}", *[""] * (3 + len(sizes)))
    return made


def _percent(found: Mapping[str, Any]) -> str:
    return f"{100 * found['score']:.1f} ±{50 * (found['high'] - found['low']):.1f}"
