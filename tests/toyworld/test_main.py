"""The three programs, from the seed to judgements and preferences, through files."""

import json
import re
from pathlib import Path

import pytest

from llamatrain.config.compose import compose
from llamatrain.data.kinds import ComparisonRow, DialogueRow, DocumentRow, JudgementRow, PreferenceRow, PromptRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.errors import UserError
from toyworld.__main__ import make
from toyworld.config import JudgeConfig, RateConfig, ToyworldConfig
from toyworld.judge import judge_responses
from toyworld.rate import rate

SMALL = ["documents_mb=0.02", "documents_eval_mb=0.01", "dialogues=30", "dialogues_eval=10", "prompts=120"]


def overrides(folder: Path, name: str, *more: str) -> list[str]:
    return [f"run.name={name}", f"run.dir={folder}", "run.wandb.mode=disabled", "run.progress=false", *more]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make(compose("toyworld", ToyworldConfig, overrides(folder, "toy", *SMALL, "prompts_eval=20")))
    return folder / "toy"


def test_files_and_rows(toy: Path) -> None:
    for name, count in (("dialogues", 30), ("dialogues_eval", 10)):
        assert len(list(read_rows(toy / f"{name}.jsonl", DialogueRow))) == count
    for name, count in (("prompts", 120), ("prompts_eval", 20)):
        assert len(list(read_rows(toy / f"{name}.jsonl", PromptRow))) == count
    borderline = list(read_rows(toy / "prompts_borderline.jsonl", PromptRow))
    assert len(borderline) == 210 and {row["meta"]["category"] for row in borderline} == {"borderline"}
    assert list(read_rows(toy / "documents.jsonl", DocumentRow))
    assert list(read_rows(toy / "documents_eval.jsonl", DocumentRow))
    assert json.loads((toy / "status.json").read_text())["state"] == "done"


def test_judge_program(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = list(read_rows(toy / "prompts_eval.jsonl", PromptRow))
    write_rows(
        toy / "responses.jsonl",
        ({"prompt_id": p["id"], "messages": p["messages"], "response": "I do not know.", "model": "m",
          "temperature": 1.0, "seed": 1, "finished": True} for p in asked),
    )  # fmt: skip
    more = (f"world={toy}", f"responses={toy / 'responses.jsonl'}", "run.progress=true")
    judge_responses(compose("judge", JudgeConfig, overrides(toy.parent, "judge", *more)))
    found = list(read_rows(toy.parent / "judge" / "judgements.jsonl", JudgementRow))
    assert [row["prompt_id"] for row in found] == [p["id"] for p in asked]
    assert [row["meta"]["is_adversarial"] for row in found] == [p["is_adversarial"] for p in asked]
    assert all(("refused" in row["meta"]) is not row["meta"]["is_adversarial"] for row in found)
    harmless, adversarial = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"\d+ answers to harmless prompts: helpfulness 0.\d\d, safety 1.00, \d+% refused without need", harmless
    )
    assert re.fullmatch(r"\d+ answers to adversarial prompts: helpfulness 0.\d\d, safety 0.\d\d", adversarial)
    with (toy / "responses.jsonl").open("a") as file:
        file.write((toy / "responses.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"what 'responses' names changed since .*judge was finished"):
        judge_responses(compose("judge", JudgeConfig, overrides(toy.parent, "judge", *more)))
    assert list(read_rows(toy.parent / "judge" / "judgements.jsonl", JudgementRow)) == found


def test_judge_leaves_bad_rows_out_where_asked(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (asked, *_) = read_rows(toy / "prompts_eval.jsonl", PromptRow)
    good = {"prompt_id": asked["id"], "messages": asked["messages"], "response": "No.", "model": "m",
            "temperature": 1.0, "seed": 1, "finished": True}  # fmt: skip
    path = tmp_path / "responses.jsonl"
    write_rows(path, [good, {**good, "finished": "yes"}, good, *[{**good, "seed": None}] * 12])
    told = overrides(tmp_path, "judge", f"world={toy}", f"responses={path}", "run.progress=true")
    with pytest.raises(UserError, match=r"responses\.jsonl:2: field 'finished'.*; bad_rows=skip skips such rows$"):
        judge_responses(compose("judge", JudgeConfig, told))
    judge_responses(compose("judge", JudgeConfig, [*told, "bad_rows=skip"]))
    assert len(list(read_rows(tmp_path / "judge" / "judgements.jsonl", JudgementRow))) == 2
    said = capsys.readouterr().err
    assert "warning: 13 of 15 rows skipped, as they cannot be used:" in said
    assert "12 like " in said
    assert "responses.jsonl:4, 5, 6, 7, 8, 9, 10, 11, 12, 13 and 2 more" in said
    write_rows(path, [{**good, "seed": None}] * 3)
    with pytest.raises(UserError, match="holds no response rows, need at least one"):
        judge_responses(compose("judge", JudgeConfig, [*told, "bad_rows=skip", "run.name=none"]))


def test_rate_program(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(
        toy / "comparisons.jsonl",
        ({"id": f"{p['id']}/0", "prompt_id": p["id"], "messages": p["messages"], "response_a": "I do not know.",
          "response_b": "I cannot answer that.", "model_a": "m", "model_b": "m", "temperature_a": 1.0,
          "temperature_b": 1.0, "is_adversarial": p["is_adversarial"]} for p in read_rows(toy / "prompts.jsonl", PromptRow)),
    )  # fmt: skip
    more = (f"world={toy}", f"comparisons=[{toy / 'comparisons.jsonl'}]", "run.progress=true")
    rate(compose("rate", RateConfig, overrides(toy.parent, "rate", *more)))
    for name in ("helpfulness", "helpfulness_eval", "safety", "safety_eval"):
        assert list(read_rows(toy.parent / "rate" / f"preferences_{name}.jsonl", PreferenceRow))
    said = capsys.readouterr().err
    assert re.search(
        r"helpfulness: \d+ preferences and \d+ held out; annotators agree on \d+%\n  \d+% significantly", said
    )
    assert "both unsafe\nleft out: 0 pairs of equal answers" in said
    rows = list(read_rows(toy / "comparisons.jsonl", ComparisonRow))
    write_rows(toy / "comparisons.jsonl", rows[1:])
    with pytest.raises(UserError, match=r"what 'comparisons' names changed since .*rate was finished"):
        rate(compose("rate", RateConfig, overrides(toy.parent, "rate", *more)))


@pytest.mark.parametrize("override", ["documents_mb=0", "prompts=-1", "adversarial_fraction=1.2", "qualities.right=-1"])
def test_refuses_bad_values(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0]):
        compose("toyworld", ToyworldConfig, overrides(tmp_path, "x", override))
