"""Benchmarks, probes and people's ratings are shown wherever they lie in the pipeline's folder."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from launch.report import page
from launch.report.dashboard import show
from launch.story import Story
from llamatrain.pages.evaluations import BENCHMARK, PROBE, RATINGS, SAFETY, below, model_of, tables
from llamatrain.pages.parts import Card, Cell

from ..synthetic import make, write_lines


def figure(mean: float, count: int = 100) -> dict[str, Any]:
    """Return a figure with its interval."""
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "count": count}


MEMBER = {
    "name": "gsm8k",
    "shots": 8,
    "metric": "exact_match,strict",
    "rows": 200,
    "score": 0.1,
    "low": 0.06,
    "high": 0.15,
}
MATH = {
    "name": "math",
    "title": "Math",
    "paper": {"7B": 14.6, "13B": 28.7},
    "members": [MEMBER],
    "score": 0.1,
    "low": 0.06,
    "high": 0.15,
}
CODE = {
    "name": "code",
    "title": "Code",
    "paper": {"7B": 16.8},
    "members": [],
    "left_out": "programs are run only with run_code=true",
}
TRUTHFUL = {"prompts": 100, "true": figure(0.5), "by_category": {"law": figure(0.25)}}
PAPER = {"note": "", "models": {"Llama 2 7B": {"truthfulqa": 0.3329, "toxigen": 0.2125}}}
AC2 = {"weights": "quadratic", "value": 0.71, "low": 0.6, "high": 0.82}
PAIR = {
    "system_a": "ppo",
    "system_b": "sft",
    "prompts": 40,
    "raters": 3,
    "win": figure(0.6),
    "tie": figure(0.1),
    "loss": figure(0.3),
}
RATED = {
    "model": "ppo",
    "answers": 40,
    "raters": 3,
    "violations": figure(0.05),
    "mean_rating": figure(4.5),
    "agreement": AC2,
}
ATTACKED = {"model": "ppo", "round": 2, "people": 3, "hours": 1.5, "attacks": 60, "gamma": figure(0.8)}
FILES: dict[str, dict[str, Any]] = {
    "benchmark": {
        "checkpoint": {"path": "runs/demo/ppo/checkpoints/step_00000030", "sha256": "a"},
        "groups": [MATH, CODE],
    },
    "safety_benchmark": {"checkpoint": "runs/demo/ppo/final", "sets": {"truthfulqa": TRUTHFUL}, "reference": PAPER},
    "probe": {"checkpoint": "runs/demo/ppo/final", "kind": "tools", "right": figure(0.7), "gain": figure(0.2)},
    "ratings": {
        "side_by_side": [{**PAIR, "agreement": AC2}],
        "safety": [RATED],
        "red_team": [ATTACKED],
        "fixed": [{"round": 2, "model": "rs", "fixed": figure(0.9, 50)}],
    },
}


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """Return a pipeline's folder with a file of each kind below it."""
    folder = make(tmp_path / "demo")
    for name, content in FILES.items():
        (folder / f"own_{name}").mkdir()
        (folder / f"own_{name}" / f"{name}.json").write_text(json.dumps(content))
    return folder


def texts(cards: list[Card]) -> list[list[list[str]]]:
    """Return the tables' cells as text."""
    return [
        [
            [f"{cell.text} {cell.note}".strip() if isinstance(cell, Cell) else cell for cell in row]
            for row in card.table.rows
        ]
        for card in cards
        if card.table
    ]


def test_each_kind_is_a_table_of_what_was_found(demo: Path) -> None:
    places = below(demo)
    assert texts(tables(places, BENCHMARK)) == [
        [
            ["Math", "", "10.0 6.0 to 15.0", "14.6", "28.7"],
            ["gsm8k, 8-shot", "200", "10.0 6.0 to 15.0", "", ""],
            ["Code programs are run only with run_code=true", "", "–", "16.8", ""],
        ]
    ]
    assert texts(tables(places, SAFETY)) == [
        [["TruthfulQA, true", "100", "50.0 45.0 to 55.0"]],
        [["Llama 2 7B", "33.29", "21.25"]],
    ]
    assert texts(tables(places, PROBE)) == [
        [["right with tools", "100", "70.0 65.0 to 75.0"], ["gain", "100", "+20.0 15.0 to 25.0"]]
    ]
    assert texts(tables(places, RATINGS)) == [
        [
            [
                "ppo over sft",
                "40",
                "3",
                "60.0 55.0 to 65.0",
                "10.0 5.0 to 15.0",
                "30.0 25.0 to 35.0",
                "0.71 0.60 to 0.82",
            ]
        ],
        [["ppo", "40", "3", "5.0 0.0 to 10.0", "4.50 4.45 to 4.55", "0.71 0.60 to 0.82"]],
        [["ppo", "2", "3", "1.50", "60", "0.80 0.75 to 0.85"]],
        [["rs", "2", "50", "90.0 85.0 to 95.0"]],
    ]


def test_models_stand_in_the_order_of_their_stages(demo: Path) -> None:
    for name in ("a_ppo", "b_sft"):
        (demo / name).mkdir()
        checkpoint = f"runs/demo/{name[2:]}/final"
        (demo / name / PROBE).write_text(
            json.dumps({"checkpoint": checkpoint, "kind": "temporal", "right": figure(0.5)})
        )
    (demo / "own_probe" / PROBE).unlink()
    (card,) = tables(below(demo), PROBE)
    assert card.table and card.table.head == ["Measure", "Probes", "sft", "ppo"]


def test_the_report_has_them_as_sections_and_is_whole_without(demo: Path, tmp_path: Path) -> None:
    text = page.page(Story(demo))
    assert 'id="benchmarks"' in text and "gsm8k, 8-shot" in text and 'id="people"' in text
    plain = page.page(Story(make(tmp_path / "plain")))
    assert 'id="benchmarks"' not in plain and 'id="people"' not in plain


def test_a_damaged_file_is_left_out(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (demo / "own_benchmark" / BENCHMARK).write_text('{"groups": 3}')
    text = page.page(Story(demo))
    assert "gsm8k" not in text and 'id="benchmarks"' in text  # the others stay
    assert "groups is 3, need a list; it is left out" in capsys.readouterr().err


def test_models_are_called_by_their_runs() -> None:
    assert model_of({"path": "runs/demo/ppo/checkpoints/step_00000030"}) == "ppo"
    assert model_of("runs/demo/v1_rejection_sampling/final") == "v1_rejection_sampling"
    assert model_of("models/Llama-2-7b-hf") == "Llama-2-7b-hf"
    assert model_of(None) == "given responses"


def test_benchmarks_of_kept_checkpoints_are_drawn_over_their_steps(demo: Path) -> None:
    run = demo / "measured" / "ppo"
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"state": "done", "program": "measure", "step": 20}))
    write_lines(run / "metrics.jsonl", [{"step": step, "safety/toxigen_toxic": 0.1 * step} for step in (1, 2)])
    kept = page.page(Story(demo)).split('id="kept"')[1].split("<section")[0]
    assert 'aria-label="toxic of ppo, over its steps"' in kept and "All other metrics" not in kept


def test_the_report_goes_to_wandb_in_the_group_of_its_stages(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            seen["artifact"] = (name, type)

        def add_file(self, path: str) -> None:
            seen["file"] = path

    class Board:
        starting_step = 0

        def __init__(self) -> None:
            self.summary: dict[str, float] = seen.setdefault("summary", {})

        def define_metric(self, *args: Any, **keys: Any) -> None: ...

        def log(self, row: dict[str, Any]) -> None:
            seen["tables"] = row

        def log_artifact(self, artifact: Artifact) -> None:
            seen["logged"] = artifact

        def finish(self, exit_code: int) -> None:
            seen["finished"] = exit_code

    def init(**given: Any) -> Board:
        seen["given"] = given
        return Board()

    module = types.SimpleNamespace(
        init=init, Settings=lambda **_: None, Artifact=Artifact, Table=lambda columns, data: (columns, data)
    )
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    story = Story(demo)
    assert show(story, "offline", demo / "report.html")
    assert (seen["given"]["group"], seen["given"]["mode"], seen["given"]["job_type"]) == ("demo", "offline", "report")
    columns, rows = seen["tables"]["results"]
    assert [row[0] for row in rows] == list(story.evaluation["models"]) and "helpfulness" in columns
    assert seen["summary"]["ppo/helpfulness"] == story.evaluation["models"]["ppo"]["helpfulness"]["mean"]
    assert len(seen["tables"]["samples_side_by_side"][1]) > 1
    assert (
        seen["artifact"] == ("report-demo", "report")
        and seen["file"] == str(demo / "report.html")
        and seen["finished"] == 0
    )
