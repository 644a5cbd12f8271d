"""Settings that several programs share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from launch.pipeline import PipelineRun
from llamatrain.errors import UserError
from llamatrain.settings import check_run_name

NAMED: list[Callable[[str], object]] = [
    check_run_name,
    lambda name: PipelineRun(name=name, dir="runs"),
]


@pytest.mark.parametrize(
    "name", ["../../x", "..", ".", "a/../b", "a/./b", "./a", "a/..", "/tmp/x", "", "a//b", "a/", "a\0b"]
)
@pytest.mark.parametrize("take", NAMED)
def test_a_runs_name_does_not_leave_run_dir(take: Callable[[str], object], name: str) -> None:
    with pytest.raises(UserError, match=r"^run\.name=.*: need a folder name below run\.dir"):
        take(name)


@pytest.mark.parametrize("name", ["chat", "tries/chat", "v1..2", ".hidden", "...", "it's [x] é", "a b"])
@pytest.mark.parametrize("take", NAMED)
def test_other_names_are_taken(take: Callable[[str], object], name: str) -> None:
    take(name)
