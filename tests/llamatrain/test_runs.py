"""A stage's result in one line is what a reader looks for first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.programs import PROGRAMS
from llamatrain.runs import headline


@pytest.mark.parametrize(
    ("program", "rows", "line"),
    [
        (
            "rejection_sampling",
            [{"train/loss": 0.3, "rs/best_of_1": 0.55, "rs/best_of_2": 0.7, "rs/best_of_10": 0.824}],
            "score (0 to 1), best of 1: 0.55, best of 10: 0.82",
        ),
        ("rejection_sampling", [{"train/loss": 0.25}], "loss 0.250"),
        ("toyworld", [{"toyworld/documents": 44580}, {"toyworld/dialogues": 4500}], "documents 44,580, dialogues 4,500"),
        ("judge", [{"judge/helpfulness": 0.5}], "gold judge: helpful 0.500"),
        (
            "evaluate",
            [{"sft/helpfulness": 0.3, "ppo/helpfulness": 0.5, "ppo/safety": 0.9, "ppo/score_safety": 0.8}],
            "ppo, gold judge: helpful 0.500, safe 0.900",
        ),
        ("evaluate", [{"ppo/score_safety": 0.8, "ppo/score_helpfulness": 0.4}],
         "ppo, reward models: helpful (logit) 0.400, safe (logit) 0.800"),
        ("compare", [{"compare/pairs": 119, "compare/equal": 1}], "pairs 119, dropped as equal 1"),
        ("sample", [{"sample/responses": 8, "sample/helpfulness_harmless": 0.01}], "responses 8"),
        ("evaluate", [{"base/perplexity": 12.5}], "base, held-out text: perplexity 12.500"),
        ("sft", [], ""),
    ],
)  # fmt: skip
def test_headline(program: str, rows: list[dict[str, Any]], line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": 1, **row}) + "\n" for row in rows))
    assert headline(tmp_path, PROGRAMS[program].headline) == line
