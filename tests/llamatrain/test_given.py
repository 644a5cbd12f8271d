"""What a plan is given: files that are there, files that stages will make, and the paper's figures for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.errors import UserError
from llamatrain.given import BYTES, HELD_OUT, PAPER, Given, written
from llamatrain.model.config import ModelConfig
from llamatrain.planning import Rows

MODEL = ModelConfig(512, 64, 2, 4, 4, 128, 128, 1e4, 1e-5, False, 0.02, "none")


def test_what_a_stage_makes_is_found_by_its_reference() -> None:
    given = Given()
    given.add("sft", {"final": MODEL})
    given.add("rate", {"preferences_safety.jsonl": Rows(110, 30)})
    given.add("tokenizer", {"": 512})
    assert given.model("@sft/final") is MODEL and given.vocabulary("@tokenizer") == 512
    part = given.rows(["@rate/preferences_safety.jsonl@without0/11"], "preference")
    assert part.count == pytest.approx(100) and part.tokens == 30 and not given.assumed


def test_files_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("{}".ljust(89) + "\n" * 1)
    given = Given()
    found = given.rows([str(path), f"{path}@fold0/2"], "prompt")
    assert found.count == 1.5 and found.tokens == pytest.approx(90 / BYTES)


def test_what_is_not_there_is_as_the_paper_has_it() -> None:
    given = Given()
    assert given.rows(["<data.prompts>"], "prompt") == PAPER["prompt"]
    assert given.rows(["<data.prompts_eval>"], "prompt") == HELD_OUT["prompt"]
    both = given.rows(["<data.preferences>@helpfulness", "<data.preferences>@safety"], "preference")
    assert both.count == 2 * PAPER["preference"].count and len(given.assumed) == 3


def test_a_model_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match=r"base=runs/x: there is no such checkpoint.* need preset=<name>"):
        Given().model("runs/x", "base")
    assert Given(default=MODEL).model("runs/x") is MODEL


def test_answers_are_as_long_as_the_papers_where_they_may_be() -> None:
    assert written(56) == 28 and written(1024) == 234.1
