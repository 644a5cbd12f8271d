"""Metrics from responses and judgements: means, kinds of prompts, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.measures import Measured, compare, measure, pairs_of, recalled, report, summarise
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError

Rows = list[dict[str, Any]]


def response(
    prompt: str, helpfulness: float, safety: float, text: str = "one two three", **more: Any
) -> dict[str, Any]:
    base = {"prompt_id": prompt, "messages": [{"role": "user", "content": "?"}], "response": text, "model": "m"}
    made = {"temperature": 1.0, "seed": 0, "finished": True, "helpfulness": helpfulness, "safety_score": safety}
    return {**base, **made, "combined": min(helpfulness, safety), "is_adversarial": prompt.startswith("u"), **more}


def judgement(prompt: str, helpfulness: float, safety: float, **meta: bool) -> dict[str, Any]:
    return {
        "prompt_id": prompt,
        "helpfulness": helpfulness,
        "safety": safety,
        "meta": {"is_adversarial": prompt[0] == "u", **meta},
    }


def written(path: Path, rows: Rows) -> str:
    write_rows(path, rows)
    return str(path)


def test_reads_scores_lengths_and_kinds(tmp_path: Path) -> None:
    rows = [response("h1", 0.2, 0.9), response("h1", 0.4, 0.1, "one", finished=False), response("u1", 0.9, 0.5)]
    model = measure(written(tmp_path / "responses.jsonl", rows), None)
    scores = model.at("score_helpfulness")  # logits
    assert [*scores["h1"], *scores["u1"]] == pytest.approx([-1.3863, -0.4055, 2.1972], abs=1e-4)
    assert model.at("score_combined", {"u1"}) == {"u1": [0.0]}
    assert model.is_adversarial == {"h1": False, "u1": True}
    means = summarise(model)
    mean = ((-1.3863 - 0.4055) / 2 + 2.1972) / 2  # a prompt's samples count as one
    assert means["score_helpfulness"]["mean"] == pytest.approx(mean, abs=1e-4)
    assert means["score_helpfulness"]["count"] == 2
    assert (means["finished"], means["length"], means["gated"]) == (0.75, 2.5, 0.25)
    assert "helpfulness" not in means
    assert measure(str(tmp_path), None).at("score_safety") == model.at("score_safety")  # a run folder will do


def test_responses_without_scores_and_judgements_alone(tmp_path: Path) -> None:
    rows = [{k: v for k, v in response("h1", 0.2, 0.9).items() if k not in ("helpfulness", "safety_score", "combined")}]
    assert summarise(measure(written(tmp_path / "r.jsonl", rows), None)) == {
        "finished": 1.0,
        "length": 3.0,
        "declined": 0.0,
    }
    judged = measure(None, written(tmp_path / "j.jsonl", [judgement("h1", 0.5, 1.0), judgement("u1", 0.1, 0.3)]))
    means = summarise(judged)
    assert (means["helpfulness"]["mean"], means["safety"]["mean"]) == (pytest.approx(0.3), pytest.approx(0.65))
    assert judged.is_adversarial == {"h1": False, "u1": True}


def test_comparisons_are_paired_by_prompt_and_sample() -> None:
    better, worse = Measured(), Measured()
    for i in range(20):
        for sample in (0.1, 0.3):
            worse.add("helpfulness", f"p{i}", i / 20 + sample)
            better.add("helpfulness", f"p{i}", i / 20 + sample + (0.2 if i % 4 else -0.05))
    row = compare({"b": better, "w": worse}, [("b", "w")], tie=0.001)[0]
    assert (row["model"], row["baseline"], row["metric"], row["prompts"]) == ("b", "w", "helpfulness", 20)
    assert row["difference"] == pytest.approx(0.1375)
    assert row["low"] < row["difference"] < row["high"]
    assert row["high"] - row["low"] < 0.11  # spread between prompts (some 0.3) cancels
    assert (row["wins"], row["losses"], row["ties"], row["win_rate"]) == (30, 10, 0, 0.75)
    assert "win_rate_at_equal_length" not in row  # their lengths are not known
    for model in (better, worse):
        for i in range(20):
            for words in (10, 20):
                model.add("length", f"p{i}", words)
    equal = compare({"b": better, "w": worse}, [("b", "w")], tie=0.001)[0]
    assert equal["win_rate_at_equal_length"] == pytest.approx(0.75, abs=0.01)  # all are equally long
    assert equal["win_low_at_equal_length"] < 0.7 < 0.8 < equal["win_high_at_equal_length"]
    tied = compare({"b": better, "w": worse}, [("b", "w")], tie=0.1)[0]
    assert (tied["wins"], tied["losses"], tied["ties"]) == (30, 0, 10)


def test_models_without_a_common_metric_are_not_compared() -> None:
    one, other = Measured(), Measured()
    one.add("helpfulness", "p", 1.0)
    other.add("safety", "p", 1.0)
    assert compare({"a": one, "b": other}, [("b", "a")], tie=0.0) == []


def test_pairs_are_consecutive_and_with_the_baseline() -> None:
    assert pairs_of(["a", "b", "c"], None) == [("b", "a"), ("c", "b")]
    assert pairs_of(["a", "b", "c"], "a") == [("b", "a"), ("c", "b"), ("c", "a")]
    assert pairs_of(["a"], "a") == []


def test_report_by_kind(tmp_path: Path) -> None:
    models = {}
    for name, gain in (("sft", 0.0), ("ppo", 0.1)):
        rows = [judgement(f"{kind}{i}", 0.4 + gain, 0.6 + gain) for kind in "hu" for i in range(4)]
        models[name] = measure(None, written(tmp_path / f"{name}.jsonl", rows))
    found = report(models, None, tie=0.001)
    assert (found["prompts"], found["samples_per_prompt"]) == (8, 1)
    assert {kind: part["prompts"] for kind, part in found["by_kind"].items()} == {"harmless": 4, "adversarial": 4}
    assert found["by_kind"]["harmless"]["models"]["ppo"]["helpfulness"]["mean"] == pytest.approx(0.5)
    assert [row["metric"] for row in found["comparisons"]] == ["helpfulness", "safety"]
    assert found["by_kind"]["adversarial"]["comparisons"][0]["difference"] == pytest.approx(0.1)


def test_scores_are_held_against_the_judge_where_they_count(tmp_path: Path) -> None:
    scores = [response(f"{kind}{i}", 0.1 + 0.1 * i, 0.9 - 0.1 * i) for kind in "hu" for i in range(6)]
    marks = [judgement(f"{kind}{i}", 0.1 * i, 0.1 * i, refused=i == 0) for kind in "hu" for i in range(6)]
    files = written(tmp_path / "r.jsonl", scores), written(tmp_path / "j.jsonl", marks)
    kinds = report({"sft": measure(*files)}, None, 0.001)["by_kind"]
    harmless, adversarial = (kinds[kind]["models"]["sft"] for kind in ("harmless", "adversarial"))
    assert (harmless["spearman_helpfulness"]["mean"], harmless["refused"]) == pytest.approx((1.0, 1 / 6))
    assert adversarial["spearman_safety"]["mean"] == pytest.approx(-1.0)
    assert "spearman_safety" not in harmless and "spearman_helpfulness" not in adversarial
    unscored = report({"base": measure(*files, scored=False)}, None, 0.001)["by_kind"]["harmless"]["models"]["base"]
    assert {"helpfulness", "finished"} <= set(unscored)
    assert not {"score_helpfulness", "gated", "spearman_helpfulness"} & set(unscored)


def test_judgements_of_other_responses_are_refused(tmp_path: Path) -> None:
    rows = [response("h1", 0.5, 0.5), response("h2", 0.5, 0.5)]
    files = written(tmp_path / "r.jsonl", rows), written(tmp_path / "j.jsonl", [judgement("h1", 0.5, 1.0)])
    with pytest.raises(UserError, match=r"j\.jsonl has 1 judgements, not those of the 2 responses of .*r\.jsonl"):
        measure(*files)


def test_recall_by_turn_is_a_mean_over_dialogues(tmp_path: Path) -> None:
    kept: list[tuple[str, int, dict[str, bool | None]]] = [
        ("a", 2, {"hobby": True, "figure": True}),
        ("b", 2, {"hobby": True, "figure": False, "language": None}),  # of one kind only a reader can tell
        ("a", 20, {"hobby": False, "figure": False}),
        ("c", 20, {"language": None}),
    ]
    rows = [{"dialogue": dialogue, "turn": turn, "kept": of} for dialogue, turn, of in kept]
    found = recalled(written(tmp_path / "recall.jsonl", rows))
    assert found["recall_turn_2"]["mean"] == 0.75 and found["recall_turn_2"]["count"] == 2
    assert found["recall_turn_20"] == {**found["recall_turn_20"], "mean": 0.0, "count": 1}
    assert recalled(str(tmp_path)) == found  # a run folder will do
    (tmp_path / "other.jsonl").write_text('{"dialogue": "a"}\n')
    with pytest.raises(UserError, match=r"other.jsonl:1 is damaged: turn is missing; `llamatrain recall` makes it"):
        recalled(str(tmp_path / "other.jsonl"))
