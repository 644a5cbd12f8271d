"""The sets in their published schemas, in every kind of file, and what is said of rows that are none."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from evaluation.safety.sets import Item, judged_of, read_sets
from llamatrain.data.rows import write_rows
from llamatrain.errors import MissingFileError, UserError

from .conftest import TRUTHFULQA

CSV = [  # as TruthfulQA.csv has them
    {
        "Type": "Adversarial",
        "Category": "Misconceptions",
        "Question": 'Is it "true"?\nReally?',
        "Best Answer": "No",
        "Correct Answers": "No; It is not",
        "Incorrect Answers": "Yes; It is; ",
        "Source": "",
    }
]


def table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def items(root: Path, name: str) -> list[Item]:
    return read_sets(str(root), [name], None).items[name]


def test_a_table_has_lists_in_cells(tmp_path: Path) -> None:
    table(tmp_path / "truthfulqa.csv", CSV)
    (item,) = items(tmp_path, "truthfulqa")
    assert item.question == 'Is it "true"?\nReally?' and item.prompt.endswith(f"Q: {item.question}\nA:")
    assert (item.correct, item.incorrect) == (("No", "It is not"), ("Yes", "It is"))
    assert item.groups == ("Misconceptions",)


def test_all_kinds_of_files_say_the_same(tmp_path: Path) -> None:
    write_rows(tmp_path / "a" / "truthfulqa.jsonl", TRUTHFULQA)
    write_rows(tmp_path / "b" / "truthfulqa.jsonl.gz", TRUTHFULQA)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "truthfulqa.json").write_text(json.dumps(TRUTHFULQA))
    (tmp_path / "d").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(TRUTHFULQA), tmp_path / "d" / "truthfulqa.parquet")
    first, *others = (items(tmp_path / name, "truthfulqa") for name in "abcd")
    assert len(first) == 4 and all(other == first for other in others)


def test_bold_as_rows_of_the_hub(tmp_path: Path) -> None:
    rows = [
        {"domain": "gender", "name": "Anna", "category": "American_actresses", "prompts": ["Anna is ", "Anna was "]},
        {"domain": "religious_ideology", "name": "Hinduism", "category": "hinduism", "prompts": ["The river "]},
    ]
    write_rows(tmp_path / "bold.jsonl", rows)
    first, second = items(tmp_path, "bold")
    assert (first.id, first.prompt, first.domain, first.groups) == (
        "gender/American_actresses/Anna/1", "Anna is ", "gender", ("American_actresses",),
    )  # fmt: skip
    assert second.id.endswith("/2")
    assert judged_of(first, " a singer.", "text") == "Anna is a singer."
    assert judged_of(first, ", who", "text") == "Anna is, who"
    assert judged_of(first, "A singer.", "chat") == "Anna is A singer."


def test_a_type_says_what_a_label_would(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "type": "homonyms"}, {"prompt": "b", "type": "contrast_homonyms"}]
    write_rows(tmp_path / "xstest.jsonl", rows)
    assert [item.is_safe for item in items(tmp_path, "xstest")] == [True, False]


def test_an_answer_ends_before_the_texts_own_questions() -> None:
    item = Item("truthfulqa", "1", "Q: a?\nA:", question="a?")
    for text in (" In the sea.\n\nQ: b?\nA: c", " In the sea.\nQ: b?", " In the sea.", "\n\nIn the sea."):
        assert judged_of(item, text, "text") == "In the sea."
    assert judged_of(item, "One.\n\nTwo.", "chat") == "One.\n\nTwo."


def test_some_are_chosen_by_their_ids(tmp_path: Path) -> None:
    write_rows(tmp_path / "xstest.jsonl", [{"id": n, "prompt": f"p{n}", "type": "t"} for n in range(50)])
    few, more = (read_sets(str(tmp_path), None, most).items["xstest"] for most in (10, 20))
    assert len(few) == 10 and {item.id for item in few} < {item.id for item in more}
    assert [int(item.id) for item in few] == sorted(int(item.id) for item in few)


@pytest.mark.parametrize(
    ("name", "row", "told"),
    [
        ("truthfulqa", {"question": 5}, "truthfulqa.jsonl:1: found no text in 'question', only question; need one"),
        ("toxigen", {"text": "a"}, "toxigen.jsonl:1: found no 'target_groups'"),
        ("toxigen", {"text": "a", "target_groups": [3]}, "toxigen.jsonl:1: found no 'target_groups'"),
        ("bold", {"domain": "a", "category": "b", "name": "c", "prompts": "x"}, "field 'prompts': found 'x'"),
        ("xstest", {"prompt": "a", "type": "t", "label": "odd"}, "field 'label': found 'odd', need 'safe' or 'unsafe'"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path: Path, name: str, row: dict[str, Any], told: str) -> None:
    write_rows(tmp_path / f"{name}.jsonl", [row])
    with pytest.raises(UserError, match=told):
        items(tmp_path, name)


def test_files_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="holds none of truthfulqa, toxigen, bold, xstest"):
        read_sets(str(tmp_path), None, None)
    write_rows(tmp_path / "xstest.jsonl", [{"id": 1, "prompt": "a", "type": "t"}] * 2)
    with pytest.raises(UserError, match="id '1' of xstest is there twice"):
        items(tmp_path, "xstest")
    table(tmp_path / "xstest.csv", [{"prompt": "a", "type": "t"}])
    with pytest.raises(UserError, match=r"xstest.jsonl and xstest.csv: need one file of xstest"):
        items(tmp_path, "xstest")
    (tmp_path / "xstest.jsonl").unlink()
    (tmp_path / "xstest.csv").write_text("prompt,type\n")
    with pytest.raises(UserError, match="holds no prompts of xstest"):
        items(tmp_path, "xstest")
