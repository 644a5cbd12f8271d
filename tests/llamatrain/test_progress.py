"""The bar of long work."""

from __future__ import annotations

import pytest

from llamatrain.progress import Progress, counted


def test_a_bar_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(3, "scoring data[x]/[bold]a.jsonl", "pairs", show=False)._make_bar()
    bar.update(0, rate="2 [pairs]/s", shown="loss [red]1")
    shown = [column.render(bar.tasks[0]).plain for column in bar.columns if hasattr(column, "markup")]
    bar.stop()
    assert shown == ["scoring data[x]/[bold]a.jsonl", "0/3", "2 [pairs]/s", "left", "loss [red]1"]


def test_one_of_something_is_singular_as_it_is_written() -> None:
    assert [counted(n, "epoch", ".3g") for n in (1, 1.0001, 1.25)] == ["1 epoch", "1 epoch", "1.25 epochs"]
    assert [counted(n, "pair") for n in (1, 2500)] == ["1 pair", "2,500 pairs"]
