"""Averages as the paper groups them, and their intervals."""

from __future__ import annotations

import pytest
from rich.console import Console

from evaluation.benchmarks.suites import Group, Member, read_suite
from evaluation.benchmarks.table import counts, group_score, member_score, metrics, table
from llamatrain.statistics import wilson

FIRST, SECOND = Member("first", 0, "acc", ("first",)), Member("second", 5, "acc", ("easy", "hard"))
GROUP = Group("both", "Both", {"7B": 50.0}, (FIRST, SECOND), ())


def found(rows: int, score: float) -> dict[str, object]:
    return {"rows": rows, "metrics": {"acc,none": score, "acc_norm,none": 1.0}}


def test_a_member_counts_rows_and_a_group_members() -> None:
    first = member_score(FIRST, {"first": found(100, 0.5)})
    second = member_score(SECOND, {"easy": found(30, 1.0), "hard": found(10, 0.2)})
    assert second["score"] == pytest.approx(32 / 40) and second["rows"] == 40
    assert (first["low"], first["high"]) == wilson(0.5, 100)
    both = group_score(GROUP, [first, second], GROUP, "")
    assert both["score"] == pytest.approx((0.5 + 0.8) / 2)
    halves = [(one["high"] - one["low"]) / 2 for one in (first, second)]
    assert both["high"] - both["score"] == pytest.approx((halves[0] ** 2 + halves[1] ** 2) ** 0.5 / 2)
    assert metrics([both]) == pytest.approx(
        {"benchmark/both": 0.65, "benchmark/both/first": 0.5, "benchmark/both/second": 0.8}
    )


def test_a_part_of_a_group_has_no_mean() -> None:
    """It would stand beside the paper's figure of the whole."""
    paper = Group("both", "Both", {"7B": 50.0, "13B": 60.0, "34B": 70.0, "70B": 80.0}, (FIRST, SECOND), ())
    why = "programs are run only with run_code=true"
    part = group_score(paper, [member_score(FIRST, {"first": found(100, 0.5)})], paper, why)
    assert "score" not in part
    console = Console(width=80, record=True)
    console.print(table([part]))
    text = console.export_text()
    assert "Both" in text and "run_code=true" in text and "another, undisclosed" in text
    assert all(f" {figure}.0 " in text for figure in (50, 60, 70, 80)) and "…" not in text, "figures are whole"


def test_the_metric_that_counts_is_one() -> None:
    both = {"rows": 1, "metrics": {"exact_match,strict": 0.0, "exact_match,flexible": 1.0}}
    assert counts(both, "exact_match,strict") == 0.0
    with pytest.raises(ValueError, match="too many values"):
        counts(both, "exact_match")


def test_the_suite_has_the_papers_groups_members_and_shots() -> None:
    """Paper 2.3 and A.2.2, with the averages of table 3."""
    suite = {group.name: group for group in read_suite("llama2")}
    shots = {name: {member.name: member.shots for member in group.members} for name, group in suite.items()}
    assert shots["code"] == {"humaneval": 0, "mbpp": 3}
    assert shots["commonsense"].pop("commonsense_qa") == 7 and set(shots["commonsense"].values()) == {0}
    assert len(shots["commonsense"]) == 7
    assert shots["world_knowledge"] == {"nq_open": 5, "triviaqa": 5}
    assert shots["reading"] == {"squad": 0, "quac": 0, "boolq": 0}
    assert shots["math"] == {"gsm8k_cot": 8, "hendrycks_math": 4}
    assert shots["mmlu"] == {"mmlu": 5} and shots["bbh"] == {"bbh_cot_fewshot": 3}
    assert set(shots["agieval"].values()) <= {3, 4, 5}
    assert {name: group.paper["70B"] for name, group in suite.items()} == {
        "code": 37.5,
        "commonsense": 71.9,
        "world_knowledge": 63.6,
        "reading": 69.4,
        "math": 35.2,
        "mmlu": 68.9,
        "bbh": 51.2,
        "agieval": 54.2,
    }
