"""The mixture file: its mistakes by name, its shares; and worker processes that die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamatrain.errors import UserError
from pretrain.corpus.sources import Mixed, read_mixture, shares
from pretrain.corpus.work import Unseen, Work, WorkerDied

FINE = {"paths": ["a.jsonl"], "epochs": 2, "licence": "CC0"}


def write(folder: Path, content: Any) -> str:
    (folder / "m.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "m.yaml")


def test_a_mixture_is_read(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).touch()
    content = {"web": {"paths": f"hf:{tmp_path}/*.jsonl@fold0/2", "weight": 1, "licence": "x", "eval": "e.jsonl"}}
    assert read_mixture(write(tmp_path, content)) == [
        Mixed("web", [f"hf:{tmp_path}/{n}.jsonl@fold0/2" for n in "ab"], ["e.jsonl"], weight=1.0, licence="x")
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "need sources by name"),
        ({"a/b": FINE}, "source a/b: need a name of letters"),
        (
            {"a": {**FINE, "path": "x"}},
            "source a: unknown key 'path'; need one of paths, eval, weight, epochs, licence",
        ),
        ({"a": {**FINE, "paths": []}}, "source a: need paths"),
        ({"a": {**FINE, "paths": [3]}}, r"source a: paths: found \[3\], need a path"),
        ({"a": {**FINE, "paths": "/nowhere/*.jsonl"}}, r"/nowhere/\*\.jsonl: there is no such file"),
        ({"a": {**FINE, "weight": 1}}, "source a: has weight and epochs; need one of the two"),
        ({"a": {"paths": "x", "licence": "y"}}, "source a: has neither weight nor epochs"),
        ({"a": {**FINE, "epochs": 0}}, "source a: epochs=0: need a number above 0"),
        ({"a": {**FINE, "text": 3}}, "source a: text=3: need a name"),
        ({"a": {**FINE, "paths": __file__, "config": "en"}}, "source a: config=en: .* is a file, which has none"),
        ({"a": {**FINE, "licence": ""}}, "source a: need a licence"),
        ({"a": FINE, "b": {"paths": "x", "weight": 1, "licence": "y"}}, "some sources have a weight and others epochs"),
    ],
)
def test_mistakes_are_named(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read_mixture(write(tmp_path, content))


def test_shares_are_weights_or_tokens_times_epochs() -> None:
    weighted = [Mixed("a", [], weight=3.0), Mixed("b", [], weight=1.0)]
    assert shares(weighted, [10, 1000]) == [0.75, 0.25]
    read = [Mixed("a", [], epochs=3.0), Mixed("b", [], epochs=0.5)]
    assert shares(read, [100, 200]) == [0.75, 0.25]


@contextmanager
def unseen(*arguments: Any, **named: Any) -> Iterator[Unseen]:
    yield Unseen()


def ends(folder: Path, number: int) -> None:
    """A task whose process is killed at its third time."""
    (folder / "made").write_text(str(number))
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)


def squares(folder: Path, number: int) -> None:
    (folder / "made").write_text(str(number**2))


def test_a_dead_worker_is_told_and_the_rest_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(WorkerDied, match="the same command resumes"),
        Work(tmp_path / "w", 1, 2, unseen) as work,
    ):
        work.run("step", ends, [(number,) for number in range(3)])
    done = {path.name for path in (tmp_path / "w" / "step").glob("0*")}
    with Work(tmp_path / "w", 1, 1, unseen) as work:
        assert not work.fresh
        folders = work.run("step", squares, [(number,) for number in range(3)])
    expected = [str(number if f"{number:06d}" in done else number**2) for number in range(3)]
    assert [(folder / "made").read_text() for folder in folders] == expected
    assert expected[2] == "4"
    with Work(tmp_path / "w", 2, 1, unseen) as work:
        assert work.fresh
        assert not (tmp_path / "w" / "step").exists()
