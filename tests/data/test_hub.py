"""Data sets by their name on a hub: one on this machine, asked by the real libraries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_data_set_of_the_hub_is_read_as_the_docs_say(tmp_path: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.hub", str(tmp_path)], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
