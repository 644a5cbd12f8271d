"""Scored rows: joined with what annotators said, whatever rows a source makes of one."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llamatrain.data.rows import write_rows
from llamatrain.data.skipped import BadRows
from llamatrain.text_files import as_kind
from llamatrain.tokenizer import Tokenizer
from reward.card.rows import ScoredRow, join
from reward.data import load_pairs


def made_row(row: int, high: float = 1.0, low: float = 0.0, **changes: Any) -> ScoredRow:
    """A scored row of the helpfulness kind, of a prompt of its own, with the scores of the chosen and rejected answer."""
    made = ScoredRow(
        source="a.jsonl",
        row=row,
        chosen_score=high,
        rejected_score=low,
        is_adversarial=False,
        kind="helpfulness",
        messages=[{"role": "user", "content": f"Where? {row}"}],
        chosen="In the forest near the river.",
        rejected="There.",
    )
    return replace(made, **changes)


def test_rows_are_joined_with_their_scores_where_a_row_makes_several(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """RewardBench's rows make a pair for each wrong answer; equal answers are left out."""
    raw = [
        {
            "id": str(i),
            "prompt": f"Where? {i}",
            "chosen": ["Here."],
            "rejected": ["There.", "Here.", "No."],
            "subset": "Math",
        }
        for i in range(3)
    ]
    write_rows(tmp_path / "r.jsonl", raw)
    source = f"rewardbench2:{tmp_path / 'r.jsonl'}"
    pairs, dropped = load_pairs(source, tokenizer, 128, "skip")
    assert dropped == {"equal": 3}
    assert [(pair.row, pair.nth) for pair in pairs] == [(i, nth) for i in range(3) for nth in (0, 2)]
    scores = [(float(i), -1.0) for i in range(6)]
    rows = join(source, pairs, scores, [(0.0, float(i)) for i in range(6)], BadRows())
    assert [row.rejected for row in rows] == ["There.", "No."] * 3
    assert [(row.chosen_score, row.other_rejected_score) for row in rows] == [(float(i), float(i)) for i in range(6)]
    assert [(row.group, row.subset, row.answers) for row in rows[::2]] == [(str(i), "Math", 4) for i in range(3)]
    assert rows[0].prompt == rows[1].prompt != rows[2].prompt
    assert as_kind(asdict(rows[0]), ScoredRow) == rows[0]
    assert rows[1].by_other().correct is False
