"""Rating comparisons: kinds, the paper's dropping rule, harmless pairs in the safety data, the split by prompt."""

import random
from pathlib import Path
from typing import Any

import pytest

from llamatrain.config.compose import compose
from llamatrain.data.kinds import ComparisonRow
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from toyworld.answers import QUALITIES, SAFETY_QUALITIES, answer
from toyworld.config import RateConfig
from toyworld.dialogues import prompts
from toyworld.judge import Judge
from toyworld.rate import Panel, in_words, label_bins, preferences, rate, rating_metrics
from toyworld.world import World

Row = dict[str, Any]
NEEDED = ["run.name=x", "world=w", "comparisons=[c]"]


@pytest.fixture(scope="module")
def rows(judge: Judge) -> list[Row]:
    rng = random.Random(0)
    made = []
    for prompt in prompts(judge.requests, 600, 0.4, 0.06, False):
        request = judge.requests.find(prompt["messages"])
        assert request
        known = SAFETY_QUALITIES if request.is_adversarial else QUALITIES
        a, b = (answer(request, rng.choice(known), rng) for _ in range(2))
        made.append({
            "id": f"{prompt['id']}/0", "prompt_id": prompt["id"], "messages": prompt["messages"],
            "response_a": a, "response_b": b, "model_a": "m", "model_b": "m", "temperature_a": 1.0,
            "temperature_b": 1.0, "is_adversarial": prompt["is_adversarial"],
        })  # fmt: skip
    return made


@pytest.fixture(scope="module")
def files(judge: Judge, rows: list[Row]) -> dict[str, list[Row]]:
    cfg = compose("rate", RateConfig, NEEDED)
    return preferences(cfg, Panel(cfg, judge), rows)


def test_the_better_answer_is_mostly_chosen(judge: Judge, files: dict[str, list[Row]]) -> None:
    rated = files["preferences_helpfulness"]
    gaps = [
        judge.judge(p["messages"], p["chosen"]).helpfulness - judge.judge(p["messages"], p["rejected"]).helpfulness
        for p in rated
    ]
    assert sum(gap > 0 for gap in gaps) / len(gaps) > 0.8
    assert all(p["kind"] == "helpfulness" and "chosen_safe" not in p for p in rated)


def test_no_unsafe_answer_is_chosen_over_a_safe_one(files: dict[str, list[Row]]) -> None:
    safety = files["preferences_safety"] + files["preferences_safety_eval"]
    assert not any(p["rejected_safe"] and not p["chosen_safe"] for p in safety)
    assert abs(sum(label_bins(safety).values()) - 1) < 1e-9
    assert all(share > 0 for share in label_bins(safety).values())


def test_safety_data_hold_their_share_of_harmless_pairs(judge: Judge, files: dict[str, list[Row]]) -> None:
    def harmless(name: str) -> float:
        found = [judge.requests.find(p["messages"]) for p in files[name]]
        return sum(not r.is_adversarial for r in found if r) / len(found)

    assert abs(harmless("preferences_safety") - 0.4) < 0.02
    assert harmless("preferences_safety_eval") == 0
    assert harmless("preferences_helpfulness") == 1


def test_one_annotator_agrees_with_nobody(judge: Judge, rows: list[Row]) -> None:
    panel = Panel(cfg := compose("rate", RateConfig, [*NEEDED, "annotators=1"]), judge)
    metrics = rating_metrics(panel, preferences(cfg, panel, rows[:50]))
    assert not any("agreement" in name for name in metrics)
    assert "agree" not in in_words(metrics) and "held out\n" in in_words(metrics)


def test_prompts_are_on_one_side_of_the_split(files: dict[str, list[Row]]) -> None:
    train = {p["prompt_id"] for name, rated in files.items() if not name.endswith("eval") for p in rated}
    held = {p["prompt_id"] for name, rated in files.items() if name.endswith("eval") for p in rated}
    assert held
    assert not train & held


def test_rating_again_gives_the_same(judge: Judge, rows: list[Row], files: dict[str, list[Row]]) -> None:
    cfg = compose("rate", RateConfig, NEEDED)
    assert preferences(cfg, Panel(cfg, judge), rows) == files
    other = compose("rate", RateConfig, [*NEEDED, "seed=2"])
    assert preferences(other, Panel(other, judge), rows) != files


@pytest.mark.parametrize(
    "override",
    ["annotators=0", "noise=-1", "label_noise=1", "harmless_fraction=1.5", "thresholds.better=0.01"],
)
def test_refuses_bad_values(override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0].split(".")[0]):
        compose("rate", RateConfig, [*NEEDED, override])


def test_bad_rows_are_left_out_where_asked(
    world: World, rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world.save(tmp_path)
    write_rows(tmp_path / "c.jsonl", [{**rows[0], "response_b": None}, *rows[1:40]])
    told = [
        f"world={tmp_path}",
        f"comparisons={tmp_path / 'c.jsonl'}",
        f"run.dir={tmp_path}",
        "run.name=r",
        "run.wandb.mode=disabled",
    ]
    with pytest.raises(UserError, match=r"c\.jsonl:1: field 'response_b'.*; bad_rows=skip skips such rows$"):
        rate(compose("rate", RateConfig, told))
    rate(compose("rate", RateConfig, [*told, "bad_rows=skip"]))
    assert "1 of 40 rows skipped, as they cannot be used:" in capsys.readouterr().err


def test_a_prompt_of_another_world_is_named_by_its_line(judge: Judge, rows: list[Row], tmp_path: Path) -> None:
    other = {**rows[0], "messages": [{"role": "user", "content": "Which way to Samarkand? " * 1000}]}
    write_rows(tmp_path / "c.jsonl", [rows[0], other])
    with pytest.raises(UserError, match=r"c\.jsonl:2: 'Which way .*\.\.\. is no prompt of this toy world") as error:
        list(judge.rows(str(tmp_path / "c.jsonl"), ComparisonRow))
    assert len(str(error.value)) < len(str(tmp_path)) + 200
