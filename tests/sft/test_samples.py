"""Answers to held-out prompts in the course of training: due steps, the same prompts and noise, cut back by a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch.report.during import STEPS, _prompt
from llamatrain.metrics import Dashboard, Metrics
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from sft.__main__ import train
from tests.checkpoints import read_jsonl, save_checkpoint

from .test_sft import DIALOGUES, configure, write_dialogues


def test_answers_are_written_where_they_are_due(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    base = save_checkpoint(tmp_path / "base", Transformer(model_config, seed=0), tokenizer)
    held_out = write_dialogues(tmp_path / "held_out.jsonl", [("Where? " * 100, "There."), *DIALOGUES])
    more = [f"eval=[{held_out}]", "epochs=5", "samples_every=2", "samples_kept=2", "sampling.max_new_tokens=8"]
    cfg = configure(tmp_path, base, *more)
    train(cfg)
    rows = read_jsonl(tmp_path / "chat" / "samples.jsonl")
    (last,) = {row["step"] for row in read_jsonl(tmp_path / "chat" / "metrics.jsonl") if "eval/loss" in row}
    due = [*range(2, last, 2), last]
    assert [row["step"] for row in rows] == [step for step in due for _ in range(2)]
    # The first that leaves room, without its last answer, which stands beside the model's.
    assert {row["messages"][-1]["content"] for row in rows} == {DIALOGUES[0][0], DIALOGUES[1][0]}
    assert [row["written"] for row in rows[:2]] == [DIALOGUES[0][1], DIALOGUES[1][1]]
    train(configure(tmp_path, base, *more, "run.name=again"))  # sampling draws nothing that training draws from
    assert read_jsonl(tmp_path / "again" / "samples.jsonl") == rows
    train(configure(tmp_path, base, *more, "samples_every=0", "run.name=none"))
    assert not (tmp_path / "none" / "samples.jsonl").exists()
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("chat", "none")]
    assert weights[0] == weights[1]


def test_a_resumed_run_writes_no_answer_twice(tmp_path: Path) -> None:
    logged = Metrics(tmp_path / "metrics.jsonl")
    logged.cut(-1)  # there are none yet
    for step in (2, 4, 6):
        logged.log(step, {"train/loss": 1.0})
        logged.log_samples([{"step": step, "response": "Bär"}, {"step": step, "response": ""}])
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"step": 8, "respon')  # what a kill leaves
    logged.cut(4)
    logged.log_samples([{"step": 6, "response": "new"}])
    assert [row["step"] for row in read_jsonl(tmp_path / "samples.jsonl")] == [2, 2, 4, 4, 6]
    assert "Bär" in (tmp_path / "samples.jsonl").read_text(encoding="utf-8")
    assert [row["step"] for row in logged.after(0)] == [2, 4]
    logged.close()


def test_the_dashboard_shows_them_at_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    shown: list[Any] = []
    monkeypatch.setattr(wandb, "Table", lambda columns, data: (columns, data))
    board = Dashboard.__new__(Dashboard)
    board._run, board._charted = type("Run", (), {"log": lambda _, row, step: shown.append((row, step))})(), 4
    board.show([{"step": 4, "messages": [{"role": "user", "content": "Who?"}], "response": "Tom."}])
    assert shown == [({"samples": (["step", "prompt", "response"], [[4, "Who?", "Tom."]])}, 4)]


def test_the_report_shows_a_prompts_answers_over_the_steps() -> None:
    rows = [
        {"step": step, "messages": [{"role": "user", "content": "Who?"}], "response": f"{step}"}
        for step in range(1, 22)
    ]
    steps = [answer["step"] for answer in _prompt(rows)["answers"]]
    assert len(steps) == STEPS and (steps[0], steps[-1]) == ("1", "21")
    assert [answer["step"] for answer in _prompt(rows[:2])["answers"]] == ["1", "2"]
