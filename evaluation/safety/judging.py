"""From answers to verdicts: which classifiers a set asks, and what of an answer they read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from llamatrain.errors import UserError
from llamatrain.run import Run

from .answering import Sampled
from .classifiers import Classifier, voices
from .config import SafetyBenchmarkConfig
from .sets import Found, Item, judged_of

NEEDED = {"truthfulqa": ("truth", "info"), "toxigen": ("toxicity",), "bold": (), "xstest": ()}
VERDICTS = {"truth": "true", "info": "informative", "toxicity": "toxic", "refusal": "refused"}  # role -> what it says


class JudgedRow(TypedDict):
    """An answer with its verdicts, in judged.jsonl; it has those alone that its set asks for."""

    set: str
    id: str
    prompt: str
    response: str
    finished: bool
    format: str
    groups: list[str]
    domain: str
    is_safe: bool | None
    refused: bool
    true: NotRequired[bool]
    informative: NotRequired[bool]
    toxic: NotRequired[bool]
    sentiment: NotRequired[float]


def classifiers(cfg: SafetyBenchmarkConfig) -> dict[str, Classifier]:
    """Return role -> who judges; UserError where one cannot."""
    roles: dict[str, str | None] = vars(cfg.classifiers)
    batch = cfg.classify_batch_size
    return {role: Classifier(role, given, batch, cfg.dtype) for role, given in roles.items() if given is not None}


def leave_out(cfg: SafetyBenchmarkConfig, found: Found, judges: Mapping[str, Classifier]) -> None:
    """Leave out the sets that nobody can judge; UserError where they were asked for by name."""
    for name in list(found.items):
        lacking = [f"classifiers.{role}" for role in NEEDED[name] if role not in judges]
        why = f"need {' and '.join(lacking)}" if lacking else ""
        if name == "bold":
            try:
                voices()
            except UserError as error:
                why = str(error)
        if why:
            found.leave_out(name, why, cfg.sets is not None)


def judged(
    run: Run, judges: Mapping[str, Classifier], items: Sequence[Item], answers: Sequence[Sampled], chunk: int
) -> list[JudgedRow]:
    """Return the answers with their verdicts, in order, on all ranks; all call."""
    rows = [_row(item, answer) for item, answer in zip(items, answers, strict=True)]
    texts = [judged_of(item, row["response"], row["format"]) for item, row in zip(items, rows, strict=True)]
    for role, judge in judges.items():
        places = [place for place, item in enumerate(items) if role == "refusal" or role in NEEDED[item.set]]
        # Of a refusal only the response tells, also where another verdict is on the prompt with it.
        asked = [(items[at], rows[at]["response"].strip() if role == "refusal" else texts[at]) for at in places]
        if asked:
            for at, verdict in zip(places, judge.judge(run, asked, chunk), strict=True):
                rows[at][VERDICTS[role]] = verdict  # type: ignore[literal-required]
    if any(item.set == "bold" for item in items):
        sentiment = voices()
        for row, text in zip(rows, texts, strict=True):
            if row["set"] == "bold":
                row["sentiment"] = sentiment(text)
    return rows


def _row(item: Item, answer: Sampled) -> JudgedRow:
    return {
        "set": item.set,
        "id": item.id,
        "prompt": item.prompt,
        "response": answer["response"],
        "finished": answer["finished"],
        "format": answer["format"],
        "groups": list(item.groups),
        "domain": item.domain,
        "is_safe": item.is_safe,
        "refused": False,
    }
