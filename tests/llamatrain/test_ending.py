"""A program that was started by itself ends with what was measured, where it lies and what comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.programs import PROGRAMS
from llamatrain.config.compose import compose_dict
from llamatrain.ending import ending
from llamatrain.keys import flatten


@pytest.mark.parametrize("program", [name for name, program in PROGRAMS.items() if program.then])
def test_the_next_command_has_only_keys_that_its_program_knows(program: str) -> None:
    name, *overrides = PROGRAMS[program].then.format(made="runs/made", tokenizer="t").split()
    assert name in PROGRAMS
    known = {key.split(".")[0] for key in flatten(compose_dict(name, []))} | {"model"}
    assert {override.partition("=")[0].split(".")[0] for override in overrides} <= known


@pytest.mark.parametrize(
    ("program", "last", "line"),
    [
        ("pretrain", {"train/loss": 6.1, "eval/loss": 5.998}, "held-out loss 5.998 · {made}/final · next: llamatrain sft "),
        ("reward", {"eval/loss": 0.6, "eval/accuracy": 0.7}, "held-out accuracy 0.700, loss 0.600 · {made}/final · next: "),
        ("sft", {"train/loss": 2.0}, "training loss 2.000 · {made}/final · next: llamatrain chat checkpoint={made}/final"),
        ("ppo", {}, "{made}/final · next: llamatrain chat checkpoint={made}/final"),
    ],
)  # fmt: skip
def test_the_last_line(program: str, last: dict[str, float], line: str, tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    assert ending(PROGRAMS[program].then, tmp_path, last, {}).startswith(line.format(made=tmp_path))


def test_a_result_that_is_no_checkpoint_is_the_folder(tmp_path: Path) -> None:
    assert ending(PROGRAMS["tokenizer"].then, tmp_path, {}, {}).startswith(f"{tmp_path} · next: llamatrain corpus ")
    assert ending(PROGRAMS["judge"].then, tmp_path, {}, {}) == ""


def test_the_next_command_is_one_that_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that is not on the PATH says how its programs were started."""
    monkeypatch.setenv("LLAMATRAIN_NAME", "python -m llamatrain")
    assert " · next: python -m llamatrain corpus " in ending(PROGRAMS["tokenizer"].then, tmp_path, {}, {})


def test_pretraining_follows_a_corpus_with_the_tokenizer_that_it_was_built_with(tmp_path: Path) -> None:
    then = PROGRAMS["corpus"].then
    assert " tokenizer=path/to/llama model=small " in ending(then, tmp_path, {}, {"tokenizer": "path/to/llama"})
