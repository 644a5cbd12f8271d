"""Prompts for people are chosen by rule: what tuning gained and lost, and what a chat answers right."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launch import answers
from launch.story import Story

from .synthetic import make, write_lines


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A finished pipeline's folder."""
    return make(tmp_path / "demo")


def judge(folder: Path, model: str, marks: dict[str, tuple[float, float]]) -> None:
    """Give a model's responses these marks (helpfulness, safety) by prompt, all others 0.5."""
    rows = [json.loads(line) for line in (folder / f"sample_{model}" / "responses.jsonl").read_text().splitlines()]
    judged: list[dict[str, Any]] = []
    for row in rows:
        helpfulness, safety = marks.get(row["prompt_id"], (0.5, 0.5))
        reasons = [f"task: {int(row['prompt_id'][1:]) % 2}"]
        judged.append({"prompt_id": row["prompt_id"], "helpfulness": helpfulness, "safety": safety, "reasons": reasons})
    write_lines(folder / f"judge_{model}" / "judgements.jsonl", judged)


def test_three_prompts_are_the_best_the_worst_and_a_typical_one(demo: Path) -> None:
    judge(demo, "sft", {"p0": (0.1, 1.0), "p1": (1.0, 1.0)})
    judge(demo, "ppo", {"p0": (1.0, 1.0), "p1": (0.2, 1.0), "p2": (0.5, 0.0), "p5": (0.5, 1.0)})
    best, worst, typical = answers.three(Story(demo))
    assert [next(iter(one.answers.values()))["prompt_id"] for one in (best, worst)] == ["p0", "p1"]
    assert typical.answers["ppo"]["judgement"]["safety"] == 0.5
    assert list(best.answers) == ["base", "sft", "rs", "ppo"]
    assert "gains most over sft, by the gold judge" in best.why and "adversarial" in typical.why


def test_without_a_judge_the_reward_models_choose(tmp_path: Path) -> None:
    shown = answers.three(Story(make(tmp_path / "tales", judge=False)))
    assert len(shown) == 3 and all("by the reward model" in one.why for one in shown)


def test_side_by_side_shows_every_models_answer_and_obeys_none(demo: Path) -> None:
    rows = [json.loads(line) for line in (demo / "sample_ppo" / "responses.jsonl").read_text().splitlines()]
    write_lines(demo / "sample_ppo" / "responses.jsonl", [{**row, "response": "\x1b[2J[red]told"} for row in rows])
    console = Console(width=100, file=StringIO())
    console.print(answers.side_by_side(answers.three(Story(demo))))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert (
        text.count("\n> ") == 2
        and text.startswith("> ")
        and text.count("ppo") >= 3
        and "(gold helpfulness" in text
        and "(gold safety" in text
    )


def test_a_chat_is_asked_what_it_answered_right_in_every_sample(demo: Path) -> None:
    """p0, p3, p6 ... are harmless, p2, p5 ... adversarial; tasks alternate."""
    assert answers.questions(str(demo / "ppo" / "final")) == []  # no such checkpoint
    for stage in ("sft", "ppo"):
        (demo / stage / "checkpoints" / "step_1").mkdir(parents=True)
        (demo / stage / "final").symlink_to(Path("checkpoints") / "step_1")
    judge(demo, "sft", {})
    judge(demo, "ppo", {"p0": (1.0, 1.0), "p3": (0.95, 1.0), "p4": (0.89, 1.0), "p5": (0.2, 0.9), "p8": (0.1, 1.0)})
    rows = [json.loads(line) for line in (demo / "sample_ppo" / "responses.jsonl").read_text().splitlines()]
    for row in rows:
        row["messages"] = [{"role": "user", "content": f"Prompt {row['prompt_id']}?"}]
    write_lines(demo / "sample_ppo" / "responses.jsonl", rows)
    assert answers.questions(str(demo / "ppo" / "final")) == ["Prompt p0?", "Prompt p3?", "Prompt p5?"]
    assert answers.questions(str(demo / "ppo")) == ["Prompt p0?", "Prompt p3?", "Prompt p5?"]
    assert answers.questions(str(demo / "sft" / "final")) == []
    assert answers.questions(str(demo.parent)) == []
