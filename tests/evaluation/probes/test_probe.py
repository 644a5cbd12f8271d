"""The program probe, from files of probes to probe.json, with models whose answers are planted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluation.probes.__main__ import probe
from evaluation.probes.config import ProbeConfig
from evaluation.probes.temporal import TemporalProbe, respects, side_of
from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.responses import answers as module
from llamatrain.responses.answers import Answer, Answerer
from llamatrain.responses.prompts import Prompt
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import quiet, read_jsonl, save_checkpoint

MOON: TemporalProbe = {"id": "m", "question": "Who walked on the moon?", "date": "", "event": "1969-07-20", "after": ["Armstrong"]}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """A tiny model of a context that holds the descriptions."""
    config = replace(model_config, max_seq_len=1024)
    return save_checkpoint(tmp_path / "model", Transformer(config, seed=1), tokenizer)


def run(folder: Path, checkpoint: Path, kind: str, probes: list[Any], *more: str, name: str = "p") -> dict[str, Any]:
    write_rows(folder / f"{kind}.jsonl", probes)
    own = [f"kind={kind}", f"checkpoint={checkpoint}", f"probes=[{folder}/{kind}.jsonl]"]
    small = ["generation_batch_size=4", "sampling.max_new_tokens=4", "chunk_responses=4"]
    probe(compose("probe", ProbeConfig, [*quiet(folder, name), *own, *small, *more]))
    found: dict[str, Any] = json.loads((folder / name / "probe.json").read_text())
    return found


def plant(monkeypatch: pytest.MonkeyPatch, says: Any) -> list[str]:
    """Have every prompt answered by a function of its decoded text; return what was asked."""
    asked: list[str] = []

    def answer(who: Answerer, prompts: list[Prompt], *_: Any) -> list[Answer]:
        texts = [who.tokenizer.decode(prompt.tokens) for prompt in prompts]
        asked.extend(texts)
        return [Answer(says(text), True, 1) for text in texts]

    monkeypatch.setattr(module.Answerer, "answer", answer)
    return asked


@pytest.mark.parametrize(
    ("date", "side", "answer", "respected"),
    [
        ("1969", "before", "Nobody has.", True),  # the year begins before the event
        ("1969-07-20", "after", "Neil Armstrong did.", True),
        ("2023", "after", "Nobody has.", False),
        ("852", "before", "Neil Armstrong did.", False),
        ("852", "before", "", False),
    ],
)
def test_an_answer_respects_the_date(date: str, side: str, answer: str, respected: bool) -> None:
    at: TemporalProbe = {**MOON, "date": date}
    assert (side_of(at), respects(at, answer)) == (side, respected)


def test_what_was_believed_before_counts() -> None:
    earth: TemporalProbe = {**MOON, "date": "852", "event": "1522", "after": ["round"], "before": ["flat"]}
    assert respects(earth, "It is flat.") and not respects(earth, "I do not know.")
    with pytest.raises(UserError, match="probe 'm': date='May 1900', need a date as 1969"):
        side_of({**MOON, "date": "May 1900"})


def test_temporal_shares_by_side(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plant(monkeypatch, lambda text: "Armstrong" if "Today is 2" in text else "Nobody, or Armstrong")
    rows = [{**MOON, "id": date, "date": date} for date in ("1950", "1960", "2001")]
    found = run(tmp_path, checkpoint, "temporal", rows)
    assert "<<SYS>>\nToday is 1950. Answer as somebody on this day would.\n<</SYS>>" in asked[0]
    assert {side: (value["mean"], value["count"]) for side, value in found["by_side"].items()} == {
        "before": (0.0, 2),
        "after": (1.0, 1),
    }
    assert read_jsonl(tmp_path / "p" / "metrics.jsonl")[0]["probe/temporal_respected"] == pytest.approx(1 / 3)
    again = run(tmp_path, checkpoint, "temporal", rows, name="again")  # read from the store of results
    assert again == found and len(asked) == 3
    assert run(tmp_path, checkpoint, "temporal", rows) == found  # as a run that was interrupted goes on


def test_calls_are_carried_out_and_answered(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(text: str) -> str:
        if "calculator(EXPRESSION)" not in text:
            return "It is 5."
        result = re.search(r"calculator: (\S+) \[/INST\]$", text)
        if result:
            return f"It is {result[1]}."
        if "search: " in text:
            return "She lives at the mill."
        return "I look: search(Mia home) and then 99" if "Mia" in text else "calculator(12 * 3)"

    asked = plant(monkeypatch, says)
    rows = [
        {"id": "a", "question": "How much is 12 * 3?", "answers": ["36"], "tool": "calculator"},
        {"id": "b", "question": "Where is Mia?", "answers": ["mill"], "documents": ["Tom: inn", "Mia has her home at the mill"],
         "tool": "search"},
    ]  # fmt: skip
    found = run(tmp_path, checkpoint, "tools", rows)
    assert (found["right"]["mean"], found["right_without"]["mean"], found["gain"]["mean"]) == (1.0, 0.0, 1.0)
    assert (found["called"]["mean"], found["calls"], found["failed_calls"]) == (1.0, 2, 0)
    assert {tool: part["right"]["count"] for tool, part in found["by_tool"].items()} == {"calculator": 1, "search": 1}
    answers = read_jsonl(tmp_path / "p" / "answers.jsonl")
    assert answers[2]["messages"] == [
        {"role": "assistant", "content": "I look: search(Mia home)"},  # what follows a call is cut off
        {"role": "user", "content": "search: Mia has her home at the mill"},
        {"role": "assistant", "content": "She lives at the mill."},
    ]
    assert len(asked) == 6
    assert found["format"] == "chat"


def test_calls_have_an_end(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = plant(monkeypatch, lambda text: "calculator(1 / 0)")
    found = run(tmp_path, checkpoint, "tools", [{"id": "a", "question": "?", "answers": ["1"]}], "tools.max_calls=2")
    assert (found["calls"], found["failed_calls"], found["right"]["mean"]) == (2, 2, 1.0)  # the last call holds a 1
    assert len(asked) == 4


def test_a_context_without_room_for_an_answer_is_counted(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that fills it leaves a model nothing to say: that is no wrong answer of its own."""
    plant(monkeypatch, lambda text: "search(Mia)" if "Mia" in text else "It is 1.")
    found = run(
        tmp_path,
        checkpoint,
        "tools",
        [
            {"id": "a", "question": "Where is Mia?", "answers": ["mill"], "documents": ["Mia is at the mill. " * 200]},
            {"id": "b", "question": "How many?", "answers": ["1"]},
        ],
    )
    assert (found["no_room"]["mean"], found["right"]["mean"], found["called"]["mean"]) == (0.5, 0.5, 0.5)
    assert read_jsonl(tmp_path / "p" / "answers.jsonl")[0]["messages"][-1]["role"] == "user"
    assert read_jsonl(tmp_path / "p" / "metrics.jsonl")[0]["probe/tools_no_room"] == 0.5


def test_self_bleu_over_temperatures(tmp_path: Path, checkpoint: Path) -> None:
    prompts = [
        {"id": f"{kind}{n}", "kind": kind, "prompt": f"Tell {n}"} for kind in ("factual", "creative") for n in "ab"
    ]
    own = ["diversity.temperatures=[0.01,2.0]", "diversity.samples_per_prompt=3"]
    found = run(tmp_path, checkpoint, "temperature", prompts, *own)
    for points in found["self_bleu"].values():
        assert [point["temperature"] for point in points] == [0.01, 2.0] and points[0]["count"] == 2
        assert points[0]["mean"] > points[1]["mean"] and points[1]["sd"] >= 0
    answers = read_jsonl(tmp_path / "p" / "answers.jsonl")
    assert len(answers) == 8 and all(len(row["responses"]) == 3 for row in answers)


def test_ten_prompts_of_each_kind_come_along(tmp_path: Path, checkpoint: Path) -> None:
    own = ["probes=[]", "diversity.temperatures=[1.0]", "diversity.samples_per_prompt=2"]
    found = run(tmp_path, checkpoint, "temperature", [], *own)
    assert [points[0]["count"] for points in found["self_bleu"].values()] == [10, 10]
    cfg = compose("probe", ProbeConfig, ["run.name=x", "kind=temperature", "checkpoint=x"])
    assert cfg.diversity.temperatures == [n / 10 for n in range(1, 16)] and cfg.diversity.samples_per_prompt == 25


@pytest.mark.parametrize(
    ("kind", "rows", "more", "told"),
    [
        ("temporal", [], ["probes=[]"], r"probes=\[\]: need a file of temporal probes"),
        ("temporal", [], [], "no probes, need one at least"),
        ("temporal", [{"id": "a"}], [], r"temporal.jsonl:1 is damaged: \w+ is missing"),
        ("tools", [{"id": "a", "question": "?", "answers": ["1"]}] * 2, [], "tools.jsonl:2: id 'a' is there twice"),
        (
            "temperature",
            [{"id": "a", "kind": "odd", "prompt": "?"}],
            [],
            "probe 'a': kind=odd, need one of factual, creative",
        ),
        ("temporal", [], ["temporal.system=Hello"], "need {date} in it"),
        ("temperature", [], ["diversity.samples_per_prompt=1"], "diversity.samples_per_prompt=1: need 2 or more"),
        ("tools", [{"id": "a", "question": "x" * 9000, "answers": ["1"]}], [], "prompt 'a/with' is too long"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, checkpoint: Path, kind: str, rows: list[Any], more: list[str], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        run(tmp_path, checkpoint, kind, rows, *more)
