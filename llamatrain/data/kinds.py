"""Kinds of rows: what each must hold. Stages meet through files of them (docs/data.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from llamatrain.chat import check_messages
from llamatrain.data.files import Place
from llamatrain.errors import UserError, show

Row = dict[str, Any]
Kind = Literal["document", "dialogue", "prompt", "response", "comparison", "preference", "judgement"]
Check = Callable[[Any], str | None]  # what is needed instead, or None

RATINGS = ("significantly_better", "better", "slightly_better", "negligibly_better")


def _string(value: Any) -> str | None:
    if not isinstance(value, str):
        return "a text"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "valid Unicode (it holds half a surrogate pair)"
    return None


def _nonempty(value: Any) -> str | None:
    return _string(value) or (None if value.strip() else "a text that is not empty")


def _bool(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _integer(value: Any) -> str | None:
    return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"


def _number(value: Any) -> str | None:
    fine = (
        isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) != float("inf")
    )
    return None if fine else "a number"


def _share(value: Any) -> str | None:
    return None if _number(value) is None and 0 <= value <= 1 else "a number in [0, 1]"


def _anything(value: Any) -> str | None:
    return None


def _one_of(*values: str) -> Check:
    return lambda value: None if value in values else "one of " + ", ".join(values)


# field: (its check, is it required); `messages` is checked by `check_messages`. Other fields pass unchecked.
FIELDS: dict[str, dict[str, tuple[Check, bool]]] = {
    "document": {
        "text": (_nonempty, True),
        "source": (_string, False),
        "url": (_string, False),
        "meta": (_anything, False),
    },
    "dialogue": {"source": (_string, False), "is_adversarial": (_bool, False), "loss": (_one_of("all", "last"), False)},
    "prompt": {"id": (_nonempty, True), "source": (_string, False), "is_adversarial": (_bool, True)},
    "response": {
        "prompt_id": (_nonempty, True),
        "response": (_string, True),
        "model": (_string, True),
        "temperature": (_number, True),
        "seed": (_integer, True),
        "finished": (_bool, True),
        "is_adversarial": (_bool, False),
        "helpfulness": (_number, False),
        "safety_score": (_number, False),
        "combined": (_number, False),
    },
    "comparison": {
        "id": (_nonempty, True),
        "response_a": (_string, True),
        "response_b": (_string, True),
        "model_a": (_string, True),
        "model_b": (_string, True),
        "temperature_a": (_number, True),
        "temperature_b": (_number, True),
        "is_adversarial": (_bool, True),
    },
    "preference": {
        "chosen": (_string, True),
        "rejected": (_string, True),
        "kind": (_one_of("helpfulness", "safety"), True),
        "rating": (_one_of(*RATINGS), False),
        "chosen_safe": (_bool, False),
        "rejected_safe": (_bool, False),
        "annotator": (_string, False),
    },
    "judgement": {
        "prompt_id": (_nonempty, True),
        "helpfulness": (_share, True),
        "safety": (_share, True),
        "reasons": (_anything, False),
    },
}
ENDS: dict[str, Literal["user", "assistant"]] = {
    "dialogue": "assistant",
    "prompt": "user",
    "response": "user",
    "comparison": "user",
    "preference": "user",
}


def _refuse_former(row: Row, kind: Kind, where: Place) -> None:
    """Refuse a row of an earlier version, in which the flag of adversarial prompts had another name."""
    former, meta = "", row.get("meta")
    if "is_adversarial" in FIELDS[kind] and isinstance(row.get("safety"), bool):
        former, now = "safety", "is_adversarial"
    elif kind in ("preference", "judgement") and isinstance(meta, dict) and "safety_prompt" in meta:
        former, now = "meta.safety_prompt", "meta.is_adversarial"
    if former:
        raise UserError(f"{where}: field '{former}' of the {kind} is of an earlier version: it is now called '{now}'")


def check_row(row: Row, kind: Kind, where: Place) -> None:
    """Refuse a row that lacks what its kind must hold: UserError naming the field, what was found and what is needed.

    An optional field that is null is dropped from the row.
    """
    _refuse_former(row, kind, where)
    ends = ENDS.get(kind)
    if ends is not None:
        if "messages" not in row:
            needs = f"needs a list of messages{_hint(row, kind)}"
            raise UserError(f"{where}: field 'messages' is missing from the {kind}, {needs}")
        check_messages(row["messages"], f"{where}: field 'messages'", ends=ends)
    for field, (fault, required) in FIELDS[kind].items():
        value = row.get(field)
        if value is None:
            if required:
                found = "is null" if field in row else "is missing"
                needs = f"needs {fault(None) or 'a value'}{_hint(row, kind)}"
                raise UserError(f"{where}: field {field!r} of the {kind} {found}, {needs}")
            row.pop(field, None)
            continue
        needed = fault(value)
        if needed is not None:
            raise UserError(f"{where}: field {field!r} of the {kind}: found {show(value)}, needs {needed}")


def _hint(row: Row, kind: Kind) -> str:
    """Return what other kind a row that lacks a field is of, in words; empty where it is of none that can be told."""
    needed = {other: [name for name, (_, required) in fields.items() if required] for other, fields in FIELDS.items()}
    found = [other for other, names in needed.items() if all(row.get(name) is not None for name in names)]
    best = max(found, key=lambda other: len(needed[other]), default=kind)
    return f" (the row is a {best})" if best != kind and len(needed[best]) > 1 else ""
