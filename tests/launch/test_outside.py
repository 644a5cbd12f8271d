"""A look at a file says what its program would say, in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.outside import LOOKS, look
from launch.programs import PROGRAMS, schema_of
from llamatrain.errors import UserError
from llamatrain.keys import harmless

DIALOGUE = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "source": "x"}


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "dialogues.jsonl"
    path.write_text(json.dumps(DIALOGUE) + "\n" + "not JSON\n")  # reading the second row is the program's
    return str(path)


@pytest.mark.parametrize(
    ("what", "name", "message"),
    [
        ("dialogue", "absent.jsonl", "does not exist"),
        ("dialogue", "nobody:{rows}", "there is no adapter 'nobody'"),
        ("dialogue", "paragraphs:{rows}", "makes no dialogue rows"),
        ("dialogue", "paragraphs:owner/name", "makes no dialogue rows"),
        ("preference", "{rows}", "dialogues.jsonl:1: field"),
        ("checkpoint", "{folder}", "is not a checkpoint: it has no config.json"),
        ("checkpoint", "{folder}/absent", "`llamatrain sft` makes it"),
        ("corpus", "{folder}", "`llamatrain corpus` makes it"),
        ("world", "{folder}", "`llamatrain toyworld` makes it"),
        ("tokenizer", "{folder}", "tokenizer"),
        ("file", "{folder}/absent", "does not exist"),
    ],
)
def test_what_is_wrong_is_named(rows: str, tmp_path: Path, what: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        look(what, name.format(rows=rows, folder=tmp_path), "sft")


def test_what_is_right_or_cannot_be_known_passes(rows: str, tmp_path: Path) -> None:
    look("dialogue", f"{rows}@fold0/5")
    look("dialogue", "hf:owner/name")
    look("preference", rows, lenient=True)
    (tmp_path / "config.json").touch()
    look("checkpoint", str(tmp_path))


def test_every_file_that_a_program_reads_can_be_looked_at() -> None:
    from dataclasses import fields

    from llamatrain.data.kinds import KINDS

    for schema in (program.schema for program in PROGRAMS.values() if program.schema):
        read = {field.metadata["reads"] for field in fields(schema) if "reads" in field.metadata}
        assert read <= {*LOOKS, *KINDS}


def test_what_only_measures_is_said_beside_the_key() -> None:
    assert "eval_sequences" in harmless(schema_of("pretrain"))
    assert "eval" in harmless(schema_of("sft"))
    assert {"run.seed", "zero.dtype", "optim"}.isdisjoint(harmless(schema_of("ppo")))
    assert "preferences" not in harmless(schema_of("reward.evaluate"))
