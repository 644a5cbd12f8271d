"""The tables of docs/planning.md are those that the planner gives."""

from __future__ import annotations

import subprocess
import sys

from launch.programs import ROOT


def test_the_tables_on_the_page_are_those_that_are_made() -> None:
    code = "import sys; sys.path.insert(0, 'benchmarks'); import planning; print(planning.page(), end='')"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert made.stdout == (ROOT / "docs/planning.md").read_text(encoding="utf-8")
