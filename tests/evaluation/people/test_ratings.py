"""`ratings` reads what the pages write, says it in 80 columns and in ratings.json, and names what it cannot use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.people.config import RatingsConfig
from evaluation.people.ratings import ratings
from llamatrain.errors import UserError

from .test_preferred import A, B, rows
from .test_violations import attack, safety

SIDE_BY_SIDE, SAFETY, ATTACKS = "v1.jsonl", "safe.jsonl", "red.jsonl"


def write(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def config(folder: Path, attacks: list[str] | None = None) -> RatingsConfig:
    return RatingsConfig(str(folder), "majority", "quadratic", attacks or [])


def test_tables_and_json_of_all_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / SIDE_BY_SIDE, rows(("1", A), ("1", A), ("2", B), ("2", None), category="factual"))
    write(tmp_path / SAFETY, [*safety("ppo", {"1": [5, 4, 5], "a1": [1, 1, 2]}), *safety("ppo", {"2": [5]}, turns=2)])
    write(tmp_path / ATTACKS, [attack("a1", 3), attack("a2", 1)])
    ratings(config(tmp_path))
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert max(len(line) for line in text.splitlines() if not line.startswith("wrote")) <= 80
    assert "ppo over sft 2 50.0 (9–91) 0.0 (0–66) 50.0 (9–91)" in lines
    assert "3 ratings by 2 raters; 1 could not be judged" in lines
    assert "round 1, sft 2 1 3.00 (0.08 to 16.71)" in lines
    assert "1 person, 0.33 hours" in lines
    assert "of round 1, by ppo 1 0.0 (0–79)" in lines
    found = json.loads((tmp_path / "ratings.json").read_text())
    assert found["side_by_side"][0]["win"]["mean"] == 0.5
    assert found["safety"][0]["violations"] == {"mean": pytest.approx(1 / 3), "count": 3} | {
        end: pytest.approx(value, abs=1e-4) for end, value in (("low", 0.0615), ("high", 0.7923))
    }
    assert found["red_team"][0]["gamma"]["mean"] == pytest.approx(3.0)


def test_what_was_said_so_far_counts_until_the_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    write(tmp_path / "v1" / "so_far.jsonl", rows(("1", A)))
    write(tmp_path / "preferences.jsonl", [{"kind": "helpfulness", "chosen": "a"}])  # of another page, and no rating
    for _ in range(2):
        ratings(config(tmp_path))
        (found,) = json.loads((tmp_path / "ratings.json").read_text())["side_by_side"]
        assert (found["ratings"], found["win"]["mean"]) == (1, 1.0)
        write(tmp_path / "v1.jsonl", rows(("1", A)))  # finished: the same verdicts, once
    ratings(config(tmp_path / "v1"))
    assert (tmp_path / "v1" / "ratings.json").is_file()


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / SAFETY, safety("ppo", {"1": [5]}))
    with (tmp_path / SAFETY).open("a") as file:
        file.write('{"prompt_id": "2", "rat')
    ratings(config(tmp_path))
    assert json.loads((tmp_path / "ratings.json").read_text())["safety"][0]["answers"] == 1


def test_earlier_attacks_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "now").mkdir()
    write(tmp_path / "round1.jsonl", [attack("a1", 3)])
    write(tmp_path / "now" / SAFETY, safety("ppo", {"a1": [5, 5, 5]}))
    ratings(config(tmp_path / "now", [str(tmp_path / "round1.jsonl")]))
    found = json.loads((tmp_path / "now" / "ratings.json").read_text())
    assert (found["red_team"], found["fixed"][0]["fixed"]["mean"]) == ([], 1.0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (rows(("1", "best"))[0], "v.jsonl:1: rating is 'best', need one of a_much_better, "),
        (safety("ppo", {"1": [6]})[0], "v.jsonl:1: rating is 6, need one of 5, 4, 3, 2, 1, or null"),
        (attack("1", 0), "v.jsonl:1: degree is 0, need one of 1, 2, 3, 4, 5, or null"),
        ({"kind": "safety_rating", "prompt_id": "1"}, "v.jsonl:1: rater is missing"),
        ("x", "v.jsonl:1 is damaged: it is 'x', need an object"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, line: Any, message: str) -> None:
    write(tmp_path / "v.jsonl", [line])
    with pytest.raises(UserError) as error:
        ratings(config(tmp_path))
    assert message in str(error.value)


def test_a_folder_without_ratings_says_what_it_needs(tmp_path: Path) -> None:
    write(tmp_path / "preferences.jsonl", [{"kind": "helpfulness", "chosen": "a"}])
    with pytest.raises(UserError, match="holds no ratings; need files of the pages evaluate, safety or red_team"):
        ratings(config(tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        ratings(config(tmp_path / "elsewhere"))
    write(tmp_path / SAFETY, safety("ppo", {"a1": [5, 5, 5]}))
    with pytest.raises(UserError, match=r"round1.jsonl does not exist"):
        ratings(config(tmp_path, [str(tmp_path / "round1.jsonl")]))
