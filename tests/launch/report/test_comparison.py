"""Pipelines on one page: seeds are one group, other settings stand side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.report.__main__ import make as write
from launch.report.comparison import Comparison, comparison
from launch.report.config import ReportConfig
from launch.story import Story
from llamatrain.errors import UserError
from llamatrain.spent import default_rates

from ..synthetic import make


def changed(folder: Path, name: str, stage: str, key: str, value: Any) -> Path:
    """Make a pipeline whose `stage` has another value of a key; return its folder."""
    made = make(folder / name)
    for path in made.glob("*/stage.json"):
        record = json.loads(path.read_text())
        if key == "run.seed" or path.parent.name == stage:
            record["config"][key] = value
        path.write_text(json.dumps(record))
    description = made / "pipeline.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"name": name}))
    return made


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Return two seeds of a pipeline, and one whose PPO has another learning rate."""
    found = [changed(tmp_path, f"plain{seed}", "", "run.seed", seed) for seed in (0, 1)]
    found.append(changed(tmp_path, "quick", "ppo", "optim.lr", 0.5))
    path = found[1] / "evaluate" / "evaluation.json"
    row = json.loads(path.read_text())
    row["by_kind"]["harmless"]["models"]["ppo"]["helpfulness"]["mean"] += 0.1
    path.write_text(json.dumps(row))
    return found


def test_seeds_are_one_group_with_their_mean_and_spread(folders: list[Path]) -> None:
    one = Comparison(list(map(Story, folders)))
    assert [group.runs for group in one.groups] == ["plain0 (2 runs)", "quick"]
    rows = [json.loads((folder / "evaluate" / "evaluation.json").read_text()) for folder in folders]
    means = [row["by_kind"]["harmless"]["models"]["ppo"]["helpfulness"] for row in rows]
    text = comparison(list(map(Story, folders)))
    first, second = means[0]["mean"], means[1]["mean"]
    assert f"{(first + second) / 2:.3f}" in text and f"{first:.3f} to {second:.3f}" in text
    assert f"{means[2]['low']:.3f} to {means[2]['high']:.3f}" in text  # of a single run the interval over prompts


def test_only_what_was_configured_otherwise_is_listed(folders: list[Path]) -> None:
    card = Comparison(list(map(Story, folders))).differences()
    assert card is not None and card.table is not None
    assert card.table.rows == [["ppo optim.lr", "0.001", "0.5"]]
    assert Comparison(list(map(Story, folders[:2]))).differences() is None


def test_curves_of_all_pipelines_share_a_figure(folders: list[Path]) -> None:
    cards = {card.title: card for card in Comparison(list(map(Story, folders))).curves()}
    drawing = cards["pretrain: loss"].drawing
    assert drawing is not None
    lines = [
        shape.attributes["class"] for shape in drawing.shapes if str(shape.attributes.get("class")).startswith("line")
    ]
    assert lines == ["line c1", "line c1", "line c2"]


def test_a_pipeline_under_way_and_one_of_the_same_name_are_told_apart(folders: list[Path], tmp_path: Path) -> None:
    other = make(tmp_path / "elsewhere" / "plain0")
    (other / "evaluate" / "evaluation.json").unlink()
    first = make(tmp_path / "here" / "plain0")
    assert Comparison([Story(first), Story(other)]).names == ["here", "elsewhere"]
    assert "here" in comparison([Story(first), Story(other)])


def test_mistakes(folders: list[Path], tmp_path: Path) -> None:
    first, second = str(folders[0]), str(folders[1])
    with pytest.raises(UserError, match=r"output=x\.html: need several folders"):
        write(ReportConfig(first, [], 5, "x.html", None, default_rates()))
    with pytest.raises(UserError, match="wandb=offline: need a single folder"):
        write(ReportConfig(first, [second], 5, None, "offline", default_rates()))
    with pytest.raises(UserError, match="stands twice"):
        write(ReportConfig(first, [first], 5, None, None, default_rates()))
    with pytest.raises(UserError, match="there is no folder"):
        write(ReportConfig(first, [second], 5, str(tmp_path / "no" / "x.html"), None, default_rates()))
    write(ReportConfig(first, [second], 5, None, None, default_rates()))
    assert (folders[0].parent / "comparison.html").is_file()
