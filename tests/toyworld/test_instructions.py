"""What Ghost Attention needs: dialogues of many turns, and writers who keep to an instruction, as the rule tells."""

from __future__ import annotations

from pathlib import Path

from llamatrain.constraints import Instruction, read_constraints
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows, write_rows
from toyworld.config import CONSTRAINTS_FILE
from toyworld.instructions import CONSTRAINTS, MOST_TURNS, instructed, save_constraints, turns
from toyworld.judge import Judge
from toyworld.requests import Requests


def test_long_dialogues_have_2_to_20_turns_and_right_answers(requests: Requests, judge: Judge, tmp_path: Path) -> None:
    write_rows(tmp_path / "turns.jsonl", turns(requests, 60, held_out=False))
    rows = list(read_rows(tmp_path / "turns.jsonl", DialogueRow))
    assert {len(row["messages"]) // 2 for row in rows} >= {2, 10, MOST_TURNS}
    assert {len(row["messages"]) // 2 for row in turns(requests, 5, held_out=True)} == {MOST_TURNS}
    assert rows == list(turns(requests, 60, held_out=False))  # the seed decides
    question, answer = rows[0]["messages"][-2:]
    assert judge.judge([question], answer["content"]).helpfulness > 0.7
    for row, held_out in ((row, False) for row in rows[:20]):
        for message in row["messages"][::2]:
            request = requests.find([message])
            assert request is not None and requests.world.held_out(request.key) is held_out


def test_writers_keep_to_the_instruction_of_every_turn(requests: Requests) -> None:
    rows = list(instructed(requests, 100))
    assert {len(row["messages"]) // 2 for row in rows} == {1, 2, 3, 5}
    for row in rows:
        chosen = row["meta"]["constraints"]
        marks = {kind: CONSTRAINTS[kind].values[value] for kind, value in chosen.items()}
        instruction = Instruction("", "", chosen, marks)
        for question, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True):
            assert all(value in question["content"] for value in chosen.values())
            assert set(instruction.kept(answer["content"]).values()) == {True}
    plain = [message["content"] for row in turns(requests, 50, held_out=False) for message in row["messages"][1::2]]
    every = {kind: mark for kind, one in CONSTRAINTS.items() for mark in one.values.values()}
    assert every and not any(Instruction("", "", {}, {k: m}).kept(text)[k] for text in plain for k, m in every.items())


def test_the_kinds_can_be_read_back(tmp_path: Path) -> None:
    save_constraints(tmp_path)
    assert read_constraints(tmp_path / CONSTRAINTS_FILE) == CONSTRAINTS
