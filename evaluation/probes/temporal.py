"""A sense of time (paper 5.1, figure 22): the system message tells the date, and the answer must not know what comes after it.

A probe is a question about an event. From the event on, an answer respects the date where it holds one of `after`; before
it, where it says something and none of these, and holds one of `before` where the probe has such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NotRequired, TypedDict

from llamatrain.errors import UserError
from llamatrain.progress import Progress
from llamatrain.responses.answers import Answerer
from llamatrain.statistics import Interval, share_interval

from .config import ProbeConfig
from .matching import holds
from .reading import Probe, read_probes, with_system

SIDES = ("before", "after")


class TemporalProbe(Probe):
    """A question with the date of the query and of the event: a year, a month or a day, as 1969, 1969-07 or 1969-07-20."""

    question: str
    date: str
    event: str
    after: list[str]
    before: NotRequired[list[str]]


class TemporalAnswer(TypedDict):
    """An answer, on which side of the event the query is, and whether it respects that."""

    id: str
    date: str
    event: str
    side: str
    question: str
    response: str
    finished: bool
    respected: bool


def ask(cfg: ProbeConfig, who: Answerer) -> list[TemporalAnswer]:
    """Return the answers to the probes, on all ranks."""
    probes = read_probes(cfg.probes, TemporalProbe, cfg.max_probes)
    sides = [side_of(probe) for probe in probes]
    prompts = who.prompts(
        (probe["id"], with_system(probe.get("system", cfg.temporal.system).replace("{date}", probe["date"]), probe["question"]))
        for probe in probes
    )  # fmt: skip

    def rows_of(items: range, bar: Progress) -> list[TemporalAnswer]:
        made = who.answer([prompts[item] for item in items], [0] * len(items), bar)
        return [
            {
                "id": probes[item]["id"],
                "date": probes[item]["date"],
                "event": probes[item]["event"],
                "side": sides[item],
                "question": probes[item]["question"],
                "response": answer.text.strip(),
                "finished": answer.finished,
                "respected": respects(probes[item], answer.text),
            }
            for item, answer in zip(items, made, strict=True)
        ]

    return who.chunks(prompts, cfg.chunk_responses, TemporalAnswer, rows_of, rest=probes)


def side_of(probe: TemporalProbe) -> str:
    """Return on which side of the event the query is: from its own date on it is known."""
    date, event = (_date(probe, key) for key in ("date", "event"))
    return SIDES[date >= event]


def respects(probe: TemporalProbe, response: str) -> bool:
    """Tell whether a response is one that could be given on the date."""
    knows = holds(response, probe["after"])
    if side_of(probe) == "after":
        return knows
    said = holds(response, probe["before"]) if probe.get("before") else bool(response.strip())
    return said and not knows


def measure(answers: Sequence[TemporalAnswer]) -> dict[str, Any]:
    """Return the share of answers that respect the date, overall and by side; intervals are over probes."""
    sides = {side: [row for row in answers if row["side"] == side] for side in SIDES}
    return {"respected": _share(answers), "by_side": {side: _share(own) for side, own in sides.items() if own}}


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Return the figures for metrics.jsonl."""
    sides = {f"probe/temporal_respected_{side}": value["mean"] for side, value in found["by_side"].items()}
    return {"probe/temporal_respected": found["respected"]["mean"], **sides}


def lines(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return what is shown in the terminal."""
    sides = [(f"{side} the event", value) for side, value in found["by_side"].items()]
    return [("dates respected", found["respected"]), *sides]


def _share(answers: Sequence[TemporalAnswer]) -> dict[str, Any]:
    interval: Interval = share_interval({row["id"]: [float(row["respected"])] for row in answers})
    return interval.as_dict()


def _date(probe: TemporalProbe, key: str) -> tuple[int, ...]:
    text: str = probe[key]  # type: ignore[literal-required]
    parts = text.split("-")
    if len(parts) > 3 or not all(part.isdecimal() for part in parts):
        raise UserError(f"probe {probe['id']!r}: {key}={text!r}, need a date as 1969, 1969-07 or 1969-07-20")
    return tuple(map(int, parts))
