"""Standard output whatever it leads to."""

from __future__ import annotations

import io
import sys

import pytest

from launch.report import ReportConfig
from llamatrain import config


def test_a_terminal_that_lacks_a_character_ends_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as ended:
        config.main("report", ReportConfig, lambda cfg: print("✓ done"), ["run.name=x"])
    assert (ended.value.code, written.getvalue()) == (0, b"? done\n")
