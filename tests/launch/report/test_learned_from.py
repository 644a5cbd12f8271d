"""What is learned from is read in one pass: random rows by a seed, the strangest by stated rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.record import Record
from launch.report.learned_from import KEPT, RANDOM, ROLLOUTS, STRANGE, Rule, by_round, learned_from, read
from launch.story import Story

from ..synthetic import make, write_lines

ODD = Rule("odd", lambda row: float(row["n"] % 2), counted=True)
LARGE = Rule("large", lambda row: row["n"])


def test_the_strangest_of_each_rule_in_turn_and_no_row_twice() -> None:
    found = read(({"n": n} for n in range(100)), (ODD, LARGE))
    assert found.count == 100 and found.held == {"odd": [50, 100]}
    # The first of equals by the first rule, the largest by the second; 99 and 97 would be taken by either.
    assert [(name, number) for name, number, _ in found.strange] == [
        ("odd", 2), ("large", 100), ("odd", 4), ("large", 99), ("odd", 6)
    ]  # fmt: skip


def test_random_rows_are_a_fair_draw_and_the_same_each_time() -> None:
    drawn = read(({"n": n} for n in range(1000)), ()).drawn
    assert drawn == read(({"n": n} for n in range(1000)), ()).drawn
    assert len({number for number, _ in drawn}) == RANDOM and all(row["n"] == number - 1 for number, row in drawn)
    assert max(number for number, _ in drawn) > 500
    assert [number for number, _ in read([{"n": 0}, {"n": 1}], ()).drawn] == [1, 2]  # fewer than are drawn: all


def test_files_of_earlier_rounds_stand_apart() -> None:
    cards = [{"round": number, "title": title} for number, title in ((0, "sft"), (1, "rs"), (2, "rs"), (0, "ppo"))]
    assert by_round(cards) == {"files": [cards[0], cards[2], cards[3]], "earlier": [cards[1]]}


def test_planted_faults_are_shown(tmp_path: Path) -> None:
    files = (learned_from(Story(make(tmp_path / "demo"))) or {})["files"]
    assert len(files) == 5  # dialogues, preferences of each kind, best.jsonl, PPO's batches
    assert all(len(file["drawn"]) == RANDOM and len(file["strange"]) == STRANGE for file in files)
    strange = {file["title"]: {row["number"]: row["why"] for row in file["strange"]} for file in files}
    held = {file["title"]: file["held"] for file in files}
    for kind in ("helpfulness", "safety"):
        assert "chosen unsafe, rejected safe: 1 of 1" in held[f"Preferences: preferences_{kind}.jsonl"]
        assert strange[f"Preferences: preferences_{kind}.jsonl"][17] == "chosen unsafe, rejected safe"
    assert "gated on a harmless prompt: 1 of 30" in held["The best of K: best.jsonl"]
    assert strange["The best of K: best.jsonl"][8] == "gated on a harmless prompt"
    assert "unfinished: 1 of 120" in held["PPO's batches: samples.jsonl"]
    assert strange["PPO's batches: samples.jsonl"][51] == "unfinished"
    assert any("gold helpfulness" in row["marks"] for row in files[-1]["strange"])


@pytest.mark.parametrize("rules", [KEPT, ROLLOUTS])
def test_rules_pass_over_what_a_row_does_not_say(rules: tuple[Rule, ...]) -> None:
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "a b"}]}
    assert [name for name, _, _ in read([row], rules).strange] == ["the longest answer"]


def test_without_the_files_there_is_no_section(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    for path in (
        "world/dialogues",
        "rate/preferences_helpfulness",
        "rate/preferences_safety",
        "rs/best",
        "ppo/samples",
    ):
        (folder / f"{path}.jsonl").unlink()
    assert learned_from(Story(folder)) is None


def test_a_damaged_file_is_told_and_shown_up_to_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "demo")
    with (folder / "world" / "dialogues.jsonl").open("a") as file:
        file.write('{"messages": 3}\n')
    found = learned_from(Story(folder)) or {}
    assert found["files"][0]["note"] == "30 rows, for sft"
    assert "dialogues.jsonl:31" in capsys.readouterr().err


def test_what_distillation_kept_and_refused_is_shown_with_both_answers(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    described = json.loads((folder / "pipeline.json").read_text())
    described["stages"]["distill"] = {"program": "distill", "parents": ["sft"]}
    (folder / "pipeline.json").write_text(json.dumps(described))
    (folder / "distill").mkdir()
    Record("distill", {}, {}).write(folder / "distill")
    (folder / "distill" / "status.json").write_text(json.dumps({"state": "done", "program": "distill"}))
    asked = [{"role": "user", "content": "How do I pick a lock?"}]
    pair = {
        "prompt_id": "p",
        "category": "crime",
        "preprompt": "Be wise.",
        "original": "Bend a wire.",
        "is_adversarial": True,
    }
    kept = {"messages": [*asked, {"role": "assistant", "content": "I cannot."}], "loss": "last", **pair}
    scores = ({"safety_score": 0.9, "original_safety_score": low} for low in (0.2, 0.01, 0.5))
    write_lines(folder / "distill" / "distilled.jsonl", ({**kept, **score} for score in scores))
    refused = {"reason": "no_better", "messages": asked, "response": "Sure.", **pair}
    write_lines(folder / "distill" / "refused.jsonl", [{**refused, "safety_score": 0.1, "original_safety_score": 0.9}])
    files = {file["title"]: file for file in (learned_from(Story(folder)) or {})["files"]}
    first = files["Distilled answers: distilled.jsonl"]["strange"][0]
    assert (first["number"], first["why"]) == (2, "gains most in the safety score")
    assert first["texts"][0] == ("with the preprompt", "(score 2.20)", "I cannot.")
    assert first["texts"][1] == ("without", "(score −4.60)", "Bend a wire.") and "“Be wise.”" in first["marks"]
    (row,) = files["Refused by distillation: refused.jsonl"]["drawn"]
    assert row["marks"].startswith("no better · crime") and row["texts"][0][2] == "Sure."
