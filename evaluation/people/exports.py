"""Verdicts on comparisons in the formats of two other tools, beside our own: potato's and Argilla's.

potato: a line per verdict, as in its annotated_instances.jsonl. Argilla: a list of records, as `dataset.records.to_json`
writes and `from_json` reads them; a rater is a UUID there, made from the name.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamatrain import atomic
from llamatrain.data.kinds import RATINGS

from .collection import Collection
from .store import Item, Verdict

SAFETY = {(True, True): "both", (True, False): "only_a", (False, True): "only_b", (False, False): "neither"}


def export(collection: Collection, tool: str) -> Path:
    """Write what has been said so far of all items but gold ones; return the file."""
    said = [(collection.items[one.item], one) for one in collection.store.verdicts()]
    said = [(item, verdict) for item, verdict in said if item.known is None]
    path = collection.out.with_suffix({"potato": ".potato.jsonl", "argilla": ".argilla.json"}[tool])
    if tool == "potato":
        text = "".join(json.dumps(potato(*one), ensure_ascii=False) + "\n" for one in said)
    else:
        of_item = defaultdict[str, list[Verdict]](list)
        for item, verdict in said:
            of_item[item.id].append(verdict)
        records = [argilla(collection.items[name], verdicts) for name, verdicts in of_item.items()]
        text = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    atomic.write_text(path, text)
    return path


def answers(content: Mapping[str, Any]) -> dict[str, str]:
    """Return question -> answer: which response, by how much, and where that was asked which are safe."""
    if content["choice"] is None:
        return {"preference": "cannot_judge"}
    found = {"preference": content["choice"], "rating": content["rating"]}
    return found | ({"safe": SAFETY[content["safe_a"], content["safe_b"]]} if "safe_a" in content else {})


def potato(item: Item, verdict: Verdict) -> dict[str, Any]:
    """Return a line: each question is a schema of radio buttons, with the label that was pressed and its place."""
    places: dict[str, str] = {name: str(place) for place, name in enumerate(RATINGS, start=1)}
    labels = {name: {answer: places.get(answer, "1")} for name, answer in answers(verdict.content).items()}
    shown = {"messages": item.content["messages"], "a": item.content["response_a"], "b": item.content["response_b"]}
    return {
        "user_id": verdict.rater,
        "instance_id": item.id,
        "displayed_text": json.dumps(shown, ensure_ascii=False),
        "label_annotations": labels,
        "span_annotations": {},
        "behavioral_data": {"time_string": f"Time spent: {verdict.seconds:.1f}s"},
    }


def argilla(item: Item, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return a record with the answers of all its raters."""
    responses = defaultdict[str, list[dict[str, str]]](list)
    for verdict in verdicts:
        user = str(uuid.uuid5(uuid.NAMESPACE_URL, f"llamatrain:{verdict.rater}"))
        for question, answer in answers(verdict.content).items():
            responses[question].append({"value": answer, "user_id": user})
    pair = item.content
    return {
        "id": item.id,
        "fields": {"conversation": pair["messages"], "a": pair["response_a"], "b": pair["response_b"]},
        "metadata": {"kind": pair["kind"], "raters": [verdict.rater for verdict in verdicts]},
        "suggestions": {},
        "responses": dict(responses),
        "vectors": {},
        "_server_id": None,
    }
