"""Files are given roles by what they hold and how they are named; every source reads, and held-out rows are nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launch import roles
from launch.graph import resolve
from launch.roles import File, Roles, assigned, divisible, found
from llamatrain.data.folds import conversation_hash, conversation_key
from llamatrain.data.kinds import KINDS
from llamatrain.data.rows import read_rows
from llamatrain.data.shapes import Shape
from llamatrain.errors import UserError

ROLES: dict[str, str] = {"documents": "document", "dialogues": "dialogue", "prompts": "prompt"}


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def dialogues(count: int, word: str = "q") -> list[Any]:
    return [{"messages": [ask(f"{word}{n}?"), {"role": "assistant", "content": f"a{n}"}]} for n in range(count)]


def ask(text: str) -> Any:
    return {"role": "user", "content": text}


def pairs(count: int, kinds: Sequence[str] = ("helpfulness", "safety")) -> list[Any]:
    return [
        {"messages": [ask(f"p{n}?")], "chosen": f"yes {n}", "rejected": "no", "kind": kinds[n % len(kinds)]}
        for n in range(count)
    ]


def texts(count: int) -> list[Any]:
    return [{"text": f"Text {n}."} for n in range(count)]


def keys(sources: Sequence[str], kind: str, root: str | None) -> list[str]:
    """Return the conversations of sources, in order."""
    read = [resolve(source, Path(), root) for source in sources]
    return [conversation_key(row) for source in read for row in read_rows(source, KINDS[kind])]


def held_apart(made: Roles) -> dict[str, tuple[int, int]]:
    """Read every role: what is learned from and held out has no conversation in common. Returns how many rows."""
    data, counts = made.data, dict[str, tuple[int, int]]()
    parts = {role: (getattr(data, role), getattr(data, f"{role}_eval"), kind) for role, kind in ROLES.items()}
    for kind in ("helpfulness", "safety"):
        parts[kind] = data.preferences.of(kind), data.preferences_eval.of(kind), "preference"
    for role, (train, held_out, kind) in parts.items():
        assert kind in KINDS
        learned, measured = keys(train, kind, data.root), keys(held_out, kind, data.root)
        assert not set(learned) & set(measured), role
        counts[role] = len(learned), len(measured)
        part = made.parts[role if role in made.parts else kind]
        assert abs(part.rows + part.rows_held_out - sum(counts[role])) <= 1
    return counts


def test_a_role_each_and_a_share_held_out(tmp_path: Path) -> None:
    write(tmp_path / "a/texts.jsonl", texts(100))
    write(tmp_path / "a/b/chats.jsonl", dialogues(80))
    write(tmp_path / "rated.jsonl", pairs(90))
    write(tmp_path / "runs/old/best.jsonl", dialogues(3))
    (tmp_path / "notes.md").write_text("# Notes")
    files, others = found([str(tmp_path)])
    assert others == {".md": 1}
    made = assigned(files)
    assert made.data.root == str(tmp_path)
    assert made.data.documents == ["@data/a/texts.jsonl@without0/20"]
    assert made.data.dialogues_eval == ["@data/a/b/chats.jsonl@fold0/10"]
    assert made.data.preferences.safety == ["@data/rated.jsonl@safety@without0/10"]
    assert made.data.prompts == ["messages:@data/rated.jsonl@without0/10"]
    counts = held_apart(made)
    assert [sum(counts[role]) for role in counts] == [100, 80, 90, 45, 45]
    assert all(held_out > 0 for _, held_out in counts.values())
    rated = next(file for file in files if file.label == "rated.jsonl")
    assert rated.roles == ["preferences", "prompts"]
    assert rated.why == ["1 in 10 held out", "no file of its own holds prompts"]


def test_of_few_texts_a_larger_share_is_held_out(tmp_path: Path) -> None:
    rows = [row for row in texts(60) if conversation_hash(row) % 20]  # none in the first twentieth
    files, _ = found([str(write(tmp_path / "texts.jsonl", rows))])
    made = assigned(files)
    assert made.data.documents_eval == ["@data/texts.jsonl@fold0/10"]
    assert held_apart(made)["documents"][1] > 0
    assert files[0].why == ["1 in 10 held out"]


@pytest.mark.parametrize(
    "name",
    [
        "chats.val.jsonl",
        "chats_test.jsonl",
        "held_out.jsonl",
        "heldout-chats.jsonl",
        "test/part.jsonl",
        "EVAL.jsonl",
        "dev.jsonl",
    ],
)
def test_a_name_that_says_held_out(name: str, tmp_path: Path) -> None:
    write(tmp_path / "latest.interval.jsonl", dialogues(40))  # holds `test` and `val`, but no such word
    write(tmp_path / name, dialogues(10, "h"))
    files, _ = found([str(tmp_path)])
    made = assigned(files)
    assert made.data.dialogues == ["@data/latest.interval.jsonl"]
    assert made.data.dialogues_eval == [f"@data/{name}"]
    assert made.data.prompts_eval == [f"messages:@data/{name}"]
    assert held_apart(made)["dialogues"] == (40, 10)
    [file] = [file for file in files if file.is_held_out]
    assert "held-out dialogues" in file.roles and "held out, as its name says" in file.why


def test_a_held_out_name_without_a_sibling_is_learned_from(tmp_path: Path) -> None:
    made = assigned(found([str(write(tmp_path / "test.jsonl", dialogues(40)))])[0])
    assert made.data.dialogues == ["@data/test.jsonl@without0/10"]
    assert sum(held_apart(made)["dialogues"]) == 40


def test_others_stand_in_where_a_role_has_no_file(tmp_path: Path) -> None:
    made = assigned(found([str(write(tmp_path / "rated.jsonl", pairs(60, ["helpfulness"])))])[0])
    assert made.data.dialogues == made.data.prompts == ["messages:@data/rated.jsonl@without0/10"]
    assert made.data.documents == made.data.dialogues  # what one role holds out no other learns from
    assert held_apart(made)["helpfulness"][1] > 0
    assert made.data.preferences.safety == []
    asked = assigned(
        found([str(write(tmp_path / "asked.jsonl", [{"messages": [ask(f"{n}?")]} for n in range(30)]))])[0]
    )
    assert asked.data.prompts and not asked.data.documents and not asked.data.dialogues


def test_few_rows_are_not_divided(tmp_path: Path) -> None:
    made = assigned(found([str(write(tmp_path / "one.jsonl", dialogues(1)))])[0])
    assert (made.data.dialogues, made.data.dialogues_eval) == (["@data/one.jsonl"], [])


def test_texts_by_paragraphs_or_many_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "novel.txt").write_text("\n\n".join(f"Part {n}." for n in range(90)))
    made = assigned(found([str(tmp_path)])[0])
    assert made.data.documents == ["paragraphs:@data/novel.txt@without0/20"]
    assert sum(held_apart(made)["documents"]) == 90
    for n in range(30):
        (tmp_path / f"{n}.txt").write_text(f"Text {n}.\n\nAnd more.")
    (tmp_path / "empty.txt").touch()
    [file], _ = found([str(tmp_path)])
    made = assigned([file])
    assert (file.label, file.shape.rows, len(file.texts)) == ("*.txt", 31, 31)
    assert held_apart(made)["documents"] == (30, 1)
    assert "@data/empty.txt" not in made.data.documents
    monkeypatch.setattr(roles, "MOST_TEXTS", 5)
    with pytest.raises(UserError, match=r"holds 32 \.txt files, more than the 5"):
        found([str(tmp_path)])


def test_folds_leave_the_pairs_whole_and_divide_their_prompts(tmp_path: Path) -> None:
    files, _ = found([str(write(tmp_path / "rated.jsonl", pairs(90)))])
    assert divisible(files, 5)
    made = assigned(files, 5)
    assert made.data.preferences.helpfulness == ["@data/rated.jsonl@helpfulness"]
    assert made.data.preferences_eval.helpfulness == []
    assert made.data.prompts == ["messages:@data/rated.jsonl@without0/5"]
    assert made.parts["safety"].rows == 45
    few, _ = found([str(write(tmp_path / "few.jsonl", pairs(6)))])
    assert not divisible(few, 5)
    write(tmp_path / "rated.test.jsonl", pairs(20))
    assert not divisible(found([str(tmp_path)])[0], 5)


def test_paths_of_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "my data/it's, [odd].jsonl", dialogues(40))
    monkeypatch.chdir(tmp_path / "my data")
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (".", "../my data", "~/my data", str(tmp_path / "my data/it's, [odd].jsonl")):
        made = assigned(found([source])[0])
        assert made.data.root == str(tmp_path / "my data")
        assert sum(held_apart(made)["dialogues"]) == 40
    write(tmp_path / "tales.jsonl", [{"title": "t", "text": f"x{n}"} for n in range(90)])
    made = assigned(found(["fairytale_stories:../tales.jsonl", "."])[0])
    assert made.data.root == str(tmp_path)
    assert made.data.documents == ["fairytale_stories:@data/tales.jsonl@without0/20"]


def test_data_sets_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked: list[str] = []

    def look(source: str) -> Shape:
        looked.append(source)
        return Shape(
            source, "hf", "dialogue", rows=2000, more=True, sizes=[9] * 2000, answers=[5], folds={"": [100] * 20}
        )

    monkeypatch.setattr(roles, "look", look)
    monkeypatch.setattr(roles.hub, "hub_splits", lambda name: ["test", "train", "extra"])
    made = assigned(found(["owner/name"])[0])
    assert looked == ["owner/name:train", "owner/name:test"]
    assert (made.data.root, made.data.dialogues) == (None, ["hf:owner/name:train"])
    assert made.data.dialogues_eval == ["hf:owner/name:test"]
    made = assigned(found(["owner/name:extra", str(write(tmp_path / "d.jsonl", dialogues(3)))])[0])
    assert made.data.dialogues[0] == "hf:owner/name:extra@without0/10"


@pytest.mark.parametrize("source", ["absent", "data/absent.jsonl", "./a/b", "a b/c"])
def test_what_is_not_there(source: str) -> None:
    with pytest.raises(UserError, match="there is no such file or folder, nor a data set on the hub"):
        found([source])


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(UserError, match=r"holds no \.jsonl, \.json, \.parquet or \.txt file, only 1 \.csv"):
        found([str(tmp_path)])


def test_a_file_that_cannot_be_read_says_why_and_the_others_play(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    write(tmp_path / "d.jsonl", dialogues(20))
    files, _ = found([str(tmp_path)])
    assert "is not a Parquet file" in next(file for file in files if file.label == "x.parquet").shape.why
    assert assigned(files).data.dialogues
    assert isinstance(files[0], File)
