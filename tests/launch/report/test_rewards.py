"""The reward models' section: rules beside the model, both models, calibration, and files of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.report import page as report
from launch.report.rewards import reward_models
from launch.story import Story

from ..synthetic import make


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A finished pipeline."""
    return make(tmp_path)


def test_a_card_has_rules_beside_it_and_both_models(demo: Path) -> None:
    found = reward_models(Story(demo))
    assert found is not None
    assert [card.title for card in found["cards"]] == ["reward_helpfulness", "reward_safety"]
    drawn = [shape.text for shape in found["cards"][0].drawing.shapes]
    assert {"all pairs", "longer wins", "random", "equally long"} <= set(drawn)
    table = found["both"].table
    assert table.head == ["Model", "Preferences", "All", "Better"]  # no column that no model has a share for
    assert [row[0].text for row in table.rows] == ["safety", "helpfulness"] * 2
    assert [card.note for card in found["reliability"]] == ["calibration error 0.034"] * 2
    assert [(one["title"], one["rows"][0]["marks"]) for one in found["cases"][:2]] == [
        ("reward_helpfulness: ordered differently by the two models", "unrated · safety −2.25 · helpfulness +1.50"),
        ("reward_helpfulness: the surest mistakes", "unrated · safety −2.25"),
    ]
    section = report.page(Story(demo)).split('id="reward"')[1].split("</section")[0]
    assert "Where does &lt;Ann&gt; live?" in section
    assert [one.title for one in found["listed"]] == [
        f"reward_{kind}: what else its scores tell" for kind in ("helpfulness", "safety")
    ]
    assert "lead over longer wins" in section and "most &lt;votes&gt;" in section and "0.190 to 0.270" in section


def test_a_file_of_accuracies_alone_is_drawn_as_it_was(demo: Path) -> None:
    for name in ("accuracy_helpfulness", "accuracy_safety"):
        file = demo / name / "accuracy.json"
        known = json.loads(file.read_text())
        file.write_text(json.dumps({key: known[key] for key in ("overall", "by_rating", "by_bin")}))
    found = reward_models(Story(demo))
    assert found is not None
    assert len(found["cards"]) == 2
    assert (found["both"], found["reliability"], found["listed"], found["cases"]) == (None, [], [], [])
    assert 'id="reward"' in report.page(Story(demo))
