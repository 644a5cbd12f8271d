"""Kinds of rows, as types: what each must hold, and its check. Stages meet through files of them (docs/data.md).

A field's type says what a value must be: a text in valid Unicode, a number, one of some words; `Annotated` narrows it.
Other fields than a kind names pass unchecked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args, get_type_hints

from llamatrain.chat import Message, check_messages
from llamatrain.data.checks import Field, field_of, nonempty, share
from llamatrain.data.files import Place, Row
from llamatrain.errors import UserError, show

Text = Annotated[str, nonempty]
Share = Annotated[float, share]
Asked = Annotated[list[Message], "user"]  # the role that speaks last
Answered = Annotated[list[Message], "assistant"]
Rating = Literal["significantly_better", "better", "slightly_better", "negligibly_better"]
RATINGS: tuple[Rating, ...] = get_args(Rating)


# --- kinds -------------------------------------------------------------------------------------------------------


class DocumentRow(TypedDict):
    """A text to pretrain on."""

    text: Text
    source: NotRequired[str]  # the file's name stands in, as for dialogues and prompts
    url: NotRequired[str]
    meta: NotRequired[Any]


class DialogueRow(TypedDict):
    """An answered conversation to fine-tune on."""

    messages: Answered
    source: NotRequired[str]
    is_adversarial: NotRequired[bool]
    loss: NotRequired[Literal["all", "last"]]  # which answers are trained
    meta: NotRequired[Any]


class PromptRow(TypedDict):
    """A conversation to answer; `is_adversarial`: the safety model governs it."""

    messages: Asked
    id: Text
    source: NotRequired[str]
    is_adversarial: bool
    meta: NotRequired[Any]


class PublicScores(TypedDict, total=False):
    """What the reward models make of a response, after a sigmoid; absent where there is no such model."""

    helpfulness: float
    safety_score: float
    combined: float
    gated: bool  # the safety model ruled on a harmless prompt


class ResponseRow(PublicScores):
    """A model's answer to a prompt."""

    messages: Asked
    prompt_id: Text
    response: str
    model: str
    temperature: float
    seed: int
    finished: bool
    is_adversarial: NotRequired[bool]


class ComparisonRow(TypedDict):
    """Two answers to a prompt, to be rated."""

    messages: Asked
    id: Text
    response_a: str
    response_b: str
    model_a: str
    model_b: str
    temperature_a: float
    temperature_b: float
    is_adversarial: bool


class SafetyLabels(TypedDict, total=False):
    """Which responses of a pair are safe; absent where nobody was asked."""

    chosen_safe: bool
    rejected_safe: bool


class PreferenceRow(SafetyLabels):
    """A rated comparison."""

    messages: Asked
    chosen: str
    rejected: str
    kind: Literal["helpfulness", "safety"]
    rating: NotRequired[Rating]
    annotator: NotRequired[str]
    meta: NotRequired[dict[str, Any]]


class JudgementRow(TypedDict):
    """The gold judge's scores of a response."""

    prompt_id: Text
    helpfulness: Share
    safety: Share
    reasons: NotRequired[Any]
    meta: NotRequired[dict[str, Any]]


KINDS: dict[str, type[Any]] = {
    "document": DocumentRow,
    "dialogue": DialogueRow,
    "prompt": PromptRow,
    "response": ResponseRow,
    "comparison": ComparisonRow,
    "preference": PreferenceRow,
    "judgement": JudgementRow,
}
EXAMPLES = {  # the least that a row of people's own needs, for messages
    "document": '{"text": "..."}',
    "dialogue": '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
    "prompt": '{"messages": [{"role": "user", "content": "..."}]}',
    "preference": '{"messages": [{"role": "user", "content": "..."}], "chosen": "...", "rejected": "...", "kind": "helpfulness"}'
    ' (or "safety")',
}


# --- rows that hold more than their kind -------------------------------------------------------------------------


class RawScores(TypedDict, total=False):
    """The same as logits, and whether the safety model's took the place of a harmless prompt's helpfulness."""

    helpfulness: float
    safety: float
    combined: float
    gated: bool


class Raw(RawScores):
    """What a chunk keeps of a response beside its public fields."""

    tokens: int
    source: str


class SampledRow(ResponseRow):
    """A response in a chunk of sampling; all but `raw` stands in responses.jsonl."""

    sample: int
    raw: Raw


class RolloutRow(ResponseRow):
    """One of PPO's responses, in samples.jsonl."""

    step: int
    kl: float


class AnsweredRow(ResponseRow):
    """One of the answers to held-out prompts during supervised fine-tuning, in samples.jsonl."""

    step: int
    written: str  # the answer that the data have


class ComparedRow(ComparisonRow):
    """Two responses of the program `compare`."""

    prompt_id: str
    finished_a: bool
    finished_b: bool


class RatedRow(PreferenceRow):
    """A preference of the program `rate`."""

    prompt_id: str


class BestRow(DialogueRow, PublicScores):
    """The best response to a prompt, as a dialogue, in best.jsonl."""

    prompt_id: str
    sample: int


# --- checks ------------------------------------------------------------------------------------------------------


FIELDS: dict[type[Any], dict[str, Field]] = {
    kind: {
        name: field_of(hint, name in kind.__required_keys__)
        for name, hint in get_type_hints(kind, include_extras=True).items()
    }
    for kind in KINDS.values()
}


def name_of(kind: type[Any]) -> str:
    """Return what a kind is called for people."""
    return next(name for name, one in KINDS.items() if one is kind)


def check_row(row: Row, kind: type[Any], where: Place) -> None:
    """Refuse a row that lacks what its kind must hold: UserError naming the field, what was found and what is needed.

    An optional field that is null is dropped from the row.
    """
    _refuse_former(row, kind, where)
    for name, field in FIELDS[kind].items():
        value = row.get(name)
        if value is None:
            if field.required:
                found = "is null" if name in row else "is missing"
                needs = f"need {'a list of messages' if field.ends else field.check(None)}{_hint(row, kind)}"
                raise UserError(f"{where}: field {name!r} of the {name_of(kind)} {found}, {needs}")
            row.pop(name, None)
        elif field.ends:
            check_messages(value, f"{where}: field {name!r}", ends=field.ends)
        elif needed := field.check(value):
            raise UserError(f"{where}: field {name!r} of the {name_of(kind)}: found {show(value)}, need {needed}")


def _refuse_former(row: Row, kind: type[Any], where: Place) -> None:
    """Refuse a row of an earlier version, in which the flag of adversarial prompts had another name."""
    former, meta = "", row.get("meta")
    if "is_adversarial" in FIELDS[kind] and isinstance(row.get("safety"), bool):
        former, now = "safety", "is_adversarial"
    elif kind in (PreferenceRow, JudgementRow) and isinstance(meta, dict) and "safety_prompt" in meta:
        former, now = "meta.safety_prompt", "meta.is_adversarial"
    if former:
        told = f"field '{former}' of the {name_of(kind)} belongs to an earlier version: it is now called '{now}'"
        raise UserError(f"{where}: {told}")


def _hint(row: Row, kind: type[Any]) -> str:
    """Return what other kind a row that lacks a field is of, in words; empty where it is of none that can be told."""
    best, most = kind, 1  # a single field, such as `text`, tells nothing
    for other, fields in FIELDS.items():
        needed = [name for name, field in fields.items() if field.required]
        if len(needed) > most and all(row.get(name) is not None for name in needed):
            best, most = other, len(needed)
    return f" (the row is a {name_of(best)})" if best is not kind else ""
