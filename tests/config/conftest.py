"""A program of its own beside the real groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from llamatrain.config import presets
from llamatrain.settings import OptimConfig, RunConfig

YAML = """\
defaults:
  - run: default
  - optim: sft
  - _self_
run:
  name: example
steps: ???        # updates to take
ratio: 0.5        # a share
names: [a, b]
shares: null      # of the user's own names
"""


@dataclass
class Example:
    run: RunConfig
    optim: OptimConfig
    steps: int
    ratio: float
    names: list[str]
    shares: dict[str, float] | None


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of its own beside the real groups."""
    real = presets.config_folder()
    for group in ("run", "optim"):
        (tmp_path / group).symlink_to(real / group)
    (tmp_path / "example.yaml").write_text(YAML)
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "quick.yaml").write_text("example: [steps=3, optim.lr=0.25, shares.books=2]\n")
    monkeypatch.setattr(presets, "config_folder", lambda: tmp_path)
    return tmp_path
