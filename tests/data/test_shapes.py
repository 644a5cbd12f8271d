"""What files of all sorts are found to hold, and what is said of those that nothing reads."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from llamatrain.data.kinds import EXAMPLES, KINDS
from llamatrain.data.rows import read_rows
from llamatrain.data.shapes import BUCKETS, look
from tests.data.published import DIALOGUES, PREFERENCES

ASK, TELL = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
PAIR = {"messages": [ASK], "chosen": "So.", "rejected": "No."}
TRANSCRIPT = {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
TREE = {
    "prompt": {
        "role": "prompter",
        "text": "Why?",
        "lang": "en",
        "replies": [{"role": "assistant", "text": "So.", "lang": "en"}],
    }
}
COMPARED = {
    "response_a": "x",
    "response_b": "y",
    "model_a": "m",
    "model_b": "m",
    "temperature_a": 1.0,
    "temperature_b": 1.0,
}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("row", "adapter", "kind"),
    [
        ({"text": "Once."}, None, "document"),
        ({"text": "Once.", "title": "A tale"}, None, "document"),
        ({"messages": [ASK, TELL]}, None, "dialogue"),
        ({"messages": [ASK, TELL], "text": "both"}, None, "dialogue"),
        ({"messages": [ASK]}, "messages", "prompt"),
        ({"messages": [ASK], "id": "p", "is_adversarial": False}, None, "prompt"),
        ({**PAIR, "kind": "safety"}, None, "preference"),
        ({"messages": [ASK], "id": "c", "is_adversarial": False, **COMPARED}, None, "comparison"),
        (TRANSCRIPT, "hh_rlhf_helpfulness", "preference"),
        (TREE, "oasst", "dialogue"),
    ],
)
def test_rows_are_recognized_by_what_reads_them(row: Any, adapter: str | None, kind: Any, tmp_path: Path) -> None:
    shape = look(write(tmp_path / "rows.jsonl", row, row))
    assert (shape.adapter, shape.kind, shape.why) == (adapter, kind, "")
    assert next(read_rows(shape.spelled, KINDS[kind]))
    assert len(shape.sizes) == shape.rows == 2 or kind == "prompt"  # of equal messages one prompt is made
    assert shape.size > 0


@pytest.mark.parametrize(("adapter", "row"), [*PREFERENCES.items(), *DIALOGUES.items()])
def test_published_rows_are_recognized_by_their_adapter(adapter: str, row: Any, tmp_path: Path) -> None:
    shape = look(write(tmp_path / "rows.jsonl", row, row))
    kind = "preference" if adapter in PREFERENCES else "dialogue"
    assert (shape.adapter, shape.kind, shape.why) == (adapter, kind, "")
    assert look(f"{adapter}:{tmp_path / 'rows.jsonl'}").kind == kind


def test_an_adapter_that_can_use_no_row_says_why(tmp_path: Path) -> None:
    shape = look(write(tmp_path / "rows.jsonl", {"conversations": [{"from": "human", "value": "Why?"}]}))
    assert (shape.kind, shape.looks) == (None, "rows for the adapter sharegpt")
    assert shape.why == "the adapter sharegpt can use none of its rows: there is no answer"


def test_rows_that_are_left_out_as_known_make_no_other_reading(tmp_path: Path) -> None:
    foreign = {"prompt": {**TREE["prompt"], "lang": "de"}}
    shape = look(write(tmp_path / "rows.jsonl", *[foreign] * 5, TREE))
    assert (shape.adapter, shape.kind, shape.rows, shape.bad.wrong) == ("oasst", "dialogue", 1, 0)
    assert dict(shape.bad.counts) == {"the prompt is deleted or not English": 5}


def test_the_name_says_the_kind_of_transcripts(tmp_path: Path) -> None:
    shape = look(write(tmp_path / "harmless-base.jsonl", TRANSCRIPT))
    assert (shape.adapter, list(shape.folds)) == ("hh_rlhf", ["safety"])


@pytest.mark.parametrize(
    ("row", "looks", "need"),
    [
        (
            {"message_id": "1", "parent_id": None, "text": "Why?", "role": "prompter"},
            "single messages of OpenAssistant",
            "dialogue",
        ),
        ({"question": "Why?", "chosen": "So.", "rejected": "No."}, "pairs of answers to a question", "preference"),
        ({"question": "Why?", "answers": ["So."]}, "questions with answers", "dialogue"),
        ({"prompt": "Why?"}, "prompts", "prompt"),
        ({"content": "Once."}, "texts", "document"),
    ],
)
def test_shapes_without_an_adapter_get_a_word(row: Any, looks: str, need: str, tmp_path: Path) -> None:
    shape = look(write(tmp_path / "rows.jsonl", row, row))
    assert (shape.kind, shape.looks, shape.rows) == (None, looks, 0)
    assert shape.why.startswith(f"looks like {looks}; there is no adapter for them yet: ")
    assert shape.why.endswith(EXAMPLES[need])


@pytest.mark.parametrize(
    ("row", "looks", "why"),
    [
        (PAIR, "nearly preferences", "field 'kind' of the preference is missing, need"),
        ({"messages": [ASK, ASK]}, "nearly dialogues", "field 'messages'[1].role: found 'user', need"),
        ({"text": 7}, "nearly documents", "field 'text' of the document: found 7, need"),
        ({"a": 1, "b": 2}, "rows with `a`, `b`", "need rows with `text` or `messages`"),
        ({}, "rows with no fields", "need rows with `text` or `messages`"),
    ],
)
def test_what_is_wrong_with_the_nearest_is_said(row: Any, looks: str, why: str, tmp_path: Path) -> None:
    shape = look(write(tmp_path / "rows.jsonl", row, row))
    assert (shape.kind, shape.looks) == (None, looks)
    assert why in shape.why


def dialogues(count: int) -> Sequence[Any]:
    return [{"messages": [{"role": "user", "content": f"{n}?"}, TELL]} for n in range(count)]


def test_bad_rows_are_counted_with_file_line_and_field(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *dialogues(30), {"messages": 3}, *dialogues(1))
    shape = look(path)
    assert (shape.kind, shape.rows, shape.bad.good) == ("dialogue", 31, 31)
    assert next(iter(shape.bad.first.values())).startswith(f"{path}:31: field 'messages': found 3, need")


def test_an_array_and_what_is_no_file_of_rows(tmp_path: Path) -> None:
    array = tmp_path / "a.json"
    array.write_text(json.dumps([{"question": "Why?", "answers": ["So."]}], indent=1))
    shape = look(str(array))
    assert (shape.kind, shape.looks) == (None, "questions with answers")
    assert "one JSON array: need a row per line, as `jq -c '.[]' a.json" in shape.why
    assert shape.why.endswith(f"make each {EXAMPLES['dialogue']}")
    array.write_text(json.dumps([{"instruction": "Say.", "output": "So."}]))
    assert (look(str(array)).kind, look(str(array)).looks) == (None, "dialogue rows")
    array.write_text(json.dumps([{"text": "Once."}]))
    assert (look(str(array)).kind, look(str(array)).looks) == (None, "document rows")
    for content, why in (
        ("", "is empty"),
        ('{\n "a": 1\n}', ":1: not JSON"),
        ("[1]", "JSON array"),
        ("[1", ":1: not JSON"),
    ):
        array.write_text(content)
        assert (look(str(array)).kind, why in look(str(array)).why) == (None, True), content
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress("".join(json.dumps({"text": f"{n}"}) + "\n" for n in range(9999)).encode())[:9000])
    assert look(str(cut)).kind is None
    assert "gzip file" in look(str(cut)).why


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(dialogues(40))), path)
    shape = look(str(path))
    assert (shape.kind, shape.rows) == ("dialogue", 40)
    assert shape.held_out(10)


def test_texts_are_documents_whole_or_by_paragraphs(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("Once upon\na time.\n\nThere was.\n")
    assert (look(str(text)).rows, look(f"paragraphs:{text}").rows) == (1, 2)
    assert look(f"paragraphs:{text}").spelled == f"paragraphs:{text}"
    assert look(str(text)).characters["n"] == 2


def test_folds_are_those_that_sources_name(tmp_path: Path) -> None:
    rows = [
        {**PAIR, "messages": [{"role": "user", "content": f"{n}?"}], "kind": "safety" if n % 3 else "helpfulness"}
        for n in range(60)
    ]
    path = write(tmp_path / "pairs.jsonl", *rows)
    shape = look(path)
    for kind in ("safety", "helpfulness"):
        for fold in (0, 3):
            part = list(read_rows(f"{path}@{kind}@fold{fold}/5", KINDS["preference"]))
            assert len(part) == sum(shape.folds[kind][fold::5])
    assert sum(map(sum, shape.folds.values())) == 60
    assert shape.divides(5, "safety") and shape.held_out(10) and not shape.divides(BUCKETS, "helpfulness")
    [single] = [look(write(tmp_path / "one.jsonl", rows[0]))]
    assert not single.held_out(10)
