"""The card says what the runs know and people said, and names what neither did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from evaluation.card.__main__ import card, write
from evaluation.card.config import CardConfig
from evaluation.card.sections import NOT_STATED
from llamatrain import manifest
from llamatrain.errors import UserError
from llamatrain.spent import default_rates


def config(run: Path | None, **keys: Any) -> CardConfig:
    """Return the settings of a card."""
    plain: dict[str, Any] = {
        "stage": None,
        "words": None,
        "init": False,
        "results": [],
        "output": None,
        "license": None,
        "license_file": None,
    }
    return CardConfig(folder=str(run) if run else None, rates=default_rates(), **{**plain, **keys})


def test_it_lies_beside_the_checkpoint_with_its_licence_and_a_page(run: Path) -> None:
    files = write(config(run))
    final = run / "ppo" / "final"
    assert files == [final / "README.md", run / "card.html", final / "LICENSE"]
    assert (final / "LICENSE").read_text() == "Do as you like.\n"
    manifest.verify(final)  # the checkpoint is as it was


def test_results_come_back_from_the_metadata_as_they_were_measured(run: Path) -> None:
    text = write(config(run))[0].read_text()
    found = {(one.dataset_type, one.metric_type): one for one in ModelCard(text).data.eval_results or []}
    measured = json.loads((run / "evaluate" / "evaluation.json").read_text())["models"]["ppo"]
    assert found
    for (dataset, metric), one in found.items():
        if dataset == "held-out-prompts-and-text":
            value = measured[metric]
            assert one.metric_value == round(value["mean"] if isinstance(value, dict) else value, 6)
            if isinstance(value, dict):
                assert one.metric_args == {key: value.get(key) for key in ("low", "high", "count")}
    again = str(ModelCard(text))
    assert ModelCard(again).data.to_dict() == ModelCard(text).data.to_dict()  # the hub's own reader and writer


def test_carbon_is_that_of_all_stages(run: Path) -> None:
    carbon = ModelCard(write(config(run))[0].read_text()).data["co2_eq_emissions"]
    hours = sum(json.loads(path.read_text())["seconds"] for path in run.glob("*/stage.json")) * 2 / 3600  # of two cores
    assert carbon["emissions"] == pytest.approx(hours * 5 / 1000 * 1.1 * 0.385 * 1000, rel=1e-3)
    assert carbon["hardware_used"] == f"{hours:,.3f} core hours"


def test_what_nobody_said_or_measured_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "card.yaml").unlink()
    text = write(config(run))[0].read_text()
    for field in (
        "Model developers",
        "License",
        "Intended use cases",
        "Overview",
        "Data freshness",
        "Offset",
        "Limits",
    ):
        assert f"**{field}** {NOT_STATED}" in text, field
    assert "**Not measured by these runs** academic benchmarks (`llamatrain benchmark`)" in text
    assert "license" not in ModelCard(text).data.to_dict()
    assert "card.yaml is not there" in capsys.readouterr().err


def test_a_card_changed_by_hand_is_kept(run: Path) -> None:
    readme = write(config(run))[0]
    write(config(run))  # its own it replaces
    readme.write_text(readme.read_text().replace("Example Lab", "Somebody else"))
    with pytest.raises(UserError, match="changed by hand"):
        write(config(run))
    assert "Somebody else" in readme.read_text()


def test_names_and_texts_cannot_write_html_or_tables(run: Path) -> None:
    evaluation = run / "evaluate" / "evaluation.json"
    evaluation.write_text(evaluation.read_text().replace('"rs"', '"<script>|x"'))
    (run / "card.yaml").write_text("developers: <script>alert(1)</script>\n")
    readme, page = write(config(run))
    assert "**\\<script\\>\\|x**" in readme.read_text()
    assert "<script" not in page.read_text() and "&lt;script&gt;alert(1)" in page.read_text()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stage": "world"}, r"stage=world: need one that made a model, of pretrain, sft, rs, ppo"),
        ({"license_file": "/nowhere/LICENSE"}, r"license_file=/nowhere/LICENSE does not exist"),
        ({"words": "/nowhere/card.yaml"}, r"words=/nowhere/card.yaml does not exist; .* init=true"),
        ({"results": ["/nowhere"]}, r"results: /nowhere has no results; need a folder with one of .*evaluation.json"),
        ({"init": True}, r"card.yaml exists already"),
    ],
)
def test_mistakes(run: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        card(config(run, **keys))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("developper: me\n", r"unknown key developper; need one of name, developers"),
        ("developers: 3\n", r"developers is 3, need a text"),
        ("models: [{name: 7B, lr: 3.0e-4}]\n", r"models.0.lr is 0.0003, need a text"),
        ("tables: [{title: T, head: [a, b], rows: [[1]]}]\n", r"tables.0: a row has 1 cells, need 2"),
    ],
)
def test_mistakes_of_card_yaml(run: Path, text: str, message: str) -> None:
    (run / "card.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        write(config(run))


def test_the_example_can_be_filled_in_and_says_nothing_as_it_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "card.yaml").unlink()
    card(config(run, init=True))
    assert capsys.readouterr().out.strip() == str(run / "card.yaml")
    text = write(config(run))[0].read_text()
    assert f"**Model developers** {NOT_STATED}" in text


def test_a_run_without_its_corpus_says_so(run: Path) -> None:
    assert "**Pretraining corpus** Not known." in write(config(run))[0].read_text()
