"""Adapters of preferences: rows as the sets publish them, ratings where raters say how sure they are, and what is left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from llamatrain.data.faults import LeftOutPairs, fault
from llamatrain.data.kinds import RATINGS, DialogueRow, PreferenceRow, PromptRow
from llamatrain.data.rows import read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from tests.data.published import BINARIZED, PKU, PREFERENCES, REWARDBENCH2, SHP, SUMMARIZE, TREE, WEBGPT


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(path: Path, adapter: str, *rows: Any) -> list[PreferenceRow]:
    return list(read_rows(f"{adapter}:{write(path / 'rows.jsonl', *rows)}", PreferenceRow))


@pytest.mark.parametrize(
    ("adapter", "made"),
    [
        ("shp", [("Pectinex, perhaps?", "Raspberry juice will make a bright stain at first.", "better")]),
        ("webgpt", [("Apu.", "The neighbour is Ned Flanders [1].", "better")]),
        ("summarize", [("how can i get an investigation?", "car accident caused damage", "better")]),
        ("stackexchange", [("Yes.", "So?", "slightly_better"), ("Yes.", "No.", "significantly_better")]),
        (
            "ultrafeedback",
            [
                ("Light scatters.", "It is.", "significantly_better"),
                ("Light scatters.", "Air.", "significantly_better"),
            ],
        ),
        ("rewardbench2", [("Red.", "Seven.", None), ("Red.", "Loud.", None), ("Red.", "Cold.", None)]),
        ("dialogue_pairs", [("Light scatters.", "It is.", "slightly_better")]),
        ("prompt_pairs", [("Light scatters.", "It is.", None)]),
    ],
)
def test_a_published_row_becomes_preferences(adapter: str, made: list[Any], tmp_path: Path) -> None:
    rows = pairs(tmp_path, adapter, PREFERENCES[adapter])
    assert [(row["chosen"], row["rejected"], row.get("rating")) for row in rows] == made
    assert {row["kind"] for row in rows} == {"helpfulness"}
    path = tmp_path / "rows.jsonl"
    [prompt] = read_rows(f"{adapter}:{path}", PromptRow)
    assert prompt["messages"] == rows[0]["messages"] and prompt["id"].startswith(f"{adapter}-")
    [dialogue] = read_rows(f"{adapter}:{path}", DialogueRow)
    assert (dialogue["messages"][-1]["content"], dialogue["loss"]) == (made[0][0], "last")


@pytest.mark.parametrize(("adapter", "row"), [("webgpt", WEBGPT), ("summarize", SUMMARIZE)])
def test_parquet_with_the_hubs_columns_reads_alike(adapter: str, row: dict[str, Any], tmp_path: Path) -> None:
    """Structs and lists of structs, in which what a row lacks is null."""
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert list(read_rows(f"{adapter}:{path}", PreferenceRow)) == pairs(tmp_path, adapter, row)


def test_what_the_post_to_summarize_is(tmp_path: Path) -> None:
    [row] = pairs(tmp_path, "summarize", SUMMARIZE)
    assert row["messages"][0]["content"] == "Summarize this text.\n\nDutch law?\n\nI had a car accident on friday."


def test_siblings_of_oasst_are_ranked_but_not_rated(tmp_path: Path) -> None:
    rows = pairs(tmp_path, "oasst", TREE)
    found = [(row["chosen"], row["rejected"]) for row in rows]
    best, middle, worst = "Light scatters.", "Because.", "It is painted."
    assert found == [(best, middle), (best, worst), (middle, worst)]
    assert all("rating" not in row for row in rows)


def test_real_oasst_trees_give_every_pair_of_unequal_rank(shared_data: Path) -> None:
    expected = 0

    def walk(node: Any) -> None:
        nonlocal expected
        ranks = Counter(reply["rank"] for reply in node["replies"] if node["role"] == "prompter" and "rank" in reply)
        count = ranks.total()
        expected += (count * count - sum(same * same for same in ranks.values())) // 2
        for reply in node["replies"]:
            walk(reply)

    path = shared_data / "oasst/en_100_tree.jsonl"
    with path.open() as file:
        for line in file:
            walk(json.loads(line)["prompt"])
    assert sum(1 for _ in read_rows(f"oasst:{path}", PreferenceRow)) == expected > 500


@pytest.mark.parametrize(
    ("adapter", "rows", "ratings"),
    [
        ("shp", [{**SHP, "score_ratio": ratio} for ratio in (9, 4, 2, 1.25, 1.1)], [0, 0, 1, 2, 3]),
        ("shp", [{**SHP, "score_ratio": 1 / 3}], [1]),  # however the ratio is turned
        ("webgpt", [{**WEBGPT, "score_0": score} for score in (1, -0.75, 0.5, 0.25, 0.01)], [0, 0, 1, 2, 3]),
        ("summarize", [{**SUMMARIZE, "extra": {"confidence": sure}} for sure in (9, 8, 7, 6, 5)], [0, 1, 2, 3, 3]),
        ("summarize", [{**SUMMARIZE, "choice": 0, "extra": {"confidence": sure}} for sure in (1, 2, 3)], [0, 1, 2]),
        ("dialogue_pairs", [{**BINARIZED, "score_rejected": score} for score in (1, 6.5, 7.5, 8)], [0, 1, 2, 3]),
    ],
)
def test_how_sure_raters_are_becomes_the_rating(
    adapter: str, rows: list[Any], ratings: list[int], tmp_path: Path
) -> None:
    assert [row.get("rating") for row in pairs(tmp_path, adapter, *rows)] == [RATINGS[index] for index in ratings]


@pytest.mark.parametrize("extra", [None, {}, {"confidence": None}, {"confidence": 2}])  # 2: surely the other one
def test_a_summary_without_confidence_is_unrated(extra: Any, tmp_path: Path) -> None:
    [row] = pairs(tmp_path, "summarize", {**SUMMARIZE, "extra": extra})
    assert "rating" not in row


def test_labels_of_shp_say_which_comment_is_preferred(tmp_path: Path) -> None:
    [row] = pairs(tmp_path, "shp", {**SHP, "labels": 0})
    assert row["chosen"] == SHP["human_ref_B"]
    with pytest.raises(UserError, match=r"rows\.jsonl:1: found 2, need one of 0, 1"):
        pairs(tmp_path, "shp", {**SHP, "labels": 2})


def test_pku_gives_a_pair_of_each_kind_with_safety_labels(tmp_path: Path) -> None:
    helpful, safe = pairs(tmp_path, "pku_saferlhf", PKU)
    assert (helpful["kind"], helpful["chosen"]) == ("helpfulness", PKU["response_0"])
    assert (safe["kind"], safe["chosen"]) == ("safety", PKU["response_1"])
    assert (safe["chosen_safe"], safe["rejected_safe"]) == (True, False)
    assert (helpful["chosen_safe"], helpful["rejected_safe"]) == (False, True)
    assert (fault(helpful), fault(safe)) == ("unsafe_chosen", None)
    path = tmp_path / "rows.jsonl"
    assert len(list(read_rows(f"pku_saferlhf:{path}@safety", PreferenceRow))) == 1
    [prompt] = read_rows(f"pku_saferlhf:{path}", PromptRow)
    assert prompt["is_adversarial"]
    [dialogue] = read_rows(f"pku_saferlhf:{path}", DialogueRow)  # not the more helpful one, which is unsafe
    assert dialogue["messages"][-1]["content"] == PKU["response_1"]


def test_what_pku_gets_wrong_is_counted_by_reason_and_named(tmp_path: Path) -> None:
    wrong = {**PKU, "safer_response_id": 0}  # "the safer answer" is the unsafe one
    equal = {**PKU, "response_1": PKU["response_0"]}
    empty = {**PKU, "response_0": " "}
    dropped = LeftOutPairs()
    for number, row in enumerate(pairs(tmp_path, "pku_saferlhf", PKU, wrong, wrong, equal, empty), start=1):
        if row["kind"] == "safety" and (why := fault(row)):
            dropped.note(why, f"rows.jsonl:{(number + 1) // 2}")
    assert dropped == {"unsafe_chosen": 2, "equal": 1, "empty": 1}
    head, *lines = dropped.lines("rows.jsonl", 1).split("\n")
    assert head.startswith("warning: rows.jsonl: of 5 pairs left out 2 whose chosen answer is unsafe")
    assert lines[0] == "  whose chosen answer is unsafe and rejected answer safe: rows.jsonl:2, 3"


def test_rewardbench_keeps_what_best_of_4_is_counted_by(tmp_path: Path) -> None:
    ties = {**REWARDBENCH2, "id": "18", "chosen": ["Red.", "Blue."], "subset": "Ties"}
    safety = {**REWARDBENCH2, "id": "19", "subset": "Safety"}
    rows = pairs(tmp_path, "rewardbench2", REWARDBENCH2, ties, safety)
    assert Counter(row["meta"]["id"] for row in rows) == {"17": 3, "18": 6, "19": 3}
    assert {row["meta"]["id"]: row["meta"]["answers"] for row in rows} == {"17": 4, "18": 5, "19": 4}
    assert Counter((row["meta"]["subset"], row["kind"]) for row in rows)[("Safety", "safety")] == 3


@pytest.mark.parametrize(
    ("adapter", "row", "reason"),
    [
        ("webgpt", {**WEBGPT, "score_0": 0.0}, "the raters prefer neither answer"),
        (
            "ultrafeedback",
            {"instruction": "Why?", "completions": [{"response": "a", "overall_score": 3}] * 2},
            "no two answers are ranked differently",
        ),
        ("dialogue_pairs", {**BINARIZED, "score_chosen": 6}, "the chosen answer has the lower score"),
        ("dialogue_pairs", {**BINARIZED, "score_chosen": 7.0}, "both answers have the same score"),
        ("oasst", {"prompt": {**TREE["prompt"], "lang": "de"}}, "the prompt is deleted or not English"),  # type: ignore[dict-item]
    ],
)
def test_what_ranks_nothing_is_counted_by_reason(adapter: str, row: Any, reason: str, tmp_path: Path) -> None:
    good = TREE if adapter == "oasst" else PREFERENCES[adapter]
    path = write(tmp_path / "rows.jsonl", row, good)
    bad = BadRows("stop")
    assert list(read_rows(f"{adapter}:{path}", PreferenceRow, bad))
    assert (dict(bad.counts), bad.wrong) == ({reason: 1}, 0)
