"""Verdicts on comparisons in the formats of two other tools, beside our own: potato's and Argilla's.

potato: a project's folder, with its settings, its items and each annotator's state, from which potato itself exports and
measures agreement. Argilla: a list of records, as `dataset.records.to_json` writes and `from_json` reads them; a rater is a
UUID there, made from the name.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from llamatrain import atomic
from llamatrain.data.kinds import RATINGS

from .collection import Collection
from .store import Item, Verdict

SAFETY = {(True, True): "both", (True, False): "only_a", (False, True): "only_b", (False, False): "neither"}
QUESTIONS: dict[str, tuple[str, Iterable[str]]] = {
    "preference": ("Which response is better?", ("a", "b", "cannot_judge")),
    "rating": ("By how much?", RATINGS),
    "safe": ("Which responses are safe?", SAFETY.values()),
}
# What a state of potato's holds, by item.
LABELS, SPANS = "instance_id_to_label_to_value", "instance_id_to_span_to_value"
BEHAVIOR = "instance_id_to_behavioral_data"


def export(collection: Collection, tool: str) -> Path:
    """Write what has been said so far of all items but gold ones; return the file, or the folder."""
    of_item = defaultdict[str, list[Verdict]](list)
    for verdict in collection.store.verdicts():
        if collection.items[verdict.item].known is None:
            of_item[verdict.item].append(verdict)
    said = [(collection.items[name], verdicts) for name, verdicts in of_item.items()]
    path = collection.out.with_suffix(f".{tool}" + (".json" if tool == "argilla" else ""))
    if tool == "potato":
        for name, text in potato(path.name, said).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path / name, text)
    else:
        atomic.write_text(path, _json([argilla(*one) for one in said]))
    return path


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def answers(content: Mapping[str, Any]) -> dict[str, str]:
    """Return question -> answer: which response, by how much, and where that was asked which are safe."""
    if content["choice"] is None:
        return {"preference": "cannot_judge"}
    found = {"preference": content["choice"], "rating": content["rating"]}
    return found | ({"safe": SAFETY[content["safe_a"], content["safe_b"]]} if "safe_a" in content else {})


def potato(name: str, said: list[tuple[Item, list[Verdict]]]) -> dict[str, str]:
    """Return file -> text of a project whose questions are schemes of radio buttons."""
    schemes = [
        {"annotation_type": "radio", "name": question, "description": words, "labels": list(labels)}
        for question, (words, labels) in QUESTIONS.items()
    ]
    config = {
        "annotation_task_name": name,
        "task_dir": ".",
        "data_files": ["items.jsonl"],
        "item_properties": {"id_key": "id", "text_key": "text"},
        "output_annotation_dir": "annotation_output",
        "annotation_schemes": schemes,
    }
    states: dict[str, dict[str, Any]] = {}
    for item, verdicts in said:
        for verdict in verdicts:
            state = states.setdefault(verdict.rater, {"user_id": verdict.rater, LABELS: {}, SPANS: {}, BEHAVIOR: {}})
            found = answers(verdict.content).items()
            state[LABELS][item.id] = [[{"schema": question, "name": answer}, answer] for question, answer in found]
            state[BEHAVIOR][item.id] = {"instance_id": item.id, "total_time_ms": round(1000 * verdict.seconds)}
    items = [json.dumps(_shown(item), ensure_ascii=False) + "\n" for item, _ in said]
    files = {"config.yaml": yaml.safe_dump(config, sort_keys=False), "items.jsonl": "".join(items)}
    return files | {f"annotation_output/{rater}/user_state.json": _json(state) for rater, state in states.items()}


def _shown(item: Item) -> dict[str, str]:
    pair = item.content
    parts = [(message["role"], message["content"]) for message in pair["messages"]]
    parts += [("response a", pair["response_a"]), ("response b", pair["response_b"])]
    return {"id": item.id, "kind": pair["kind"], "text": "\n\n".join(f"{who}: {text}" for who, text in parts)}


def argilla(item: Item, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return a record with the answers of all its raters."""
    responses = defaultdict[str, list[dict[str, str]]](list)
    for verdict in verdicts:
        user = str(uuid.uuid5(uuid.NAMESPACE_URL, f"llamatrain:{verdict.rater}"))
        for question, answer in answers(verdict.content).items():  # without a status they would be taken for drafts
            responses[question].append({"value": answer, "user_id": user, "status": "submitted"})
    pair = item.content
    return {
        "id": item.id,
        "fields": {"conversation": pair["messages"], "a": pair["response_a"], "b": pair["response_b"]},
        "metadata": {"kind": pair["kind"], "raters": [verdict.rater for verdict in verdicts]},
        "suggestions": {},
        "responses": dict(responses),
        "vectors": {},
        "status": "completed",
        "_server_id": None,
    }
