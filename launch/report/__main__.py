"""`llamatrain report`: writes the report page of a pipeline beside its run folders."""

from __future__ import annotations

from pathlib import Path

from llamatrain.config.program import main
from llamatrain.errors import UserError, missing

from ..programs import with_keys
from ..story import Story
from .config import ReportConfig
from .page import write


def make(cfg: ReportConfig) -> None:
    """Write the report of a pipeline's folder."""
    folder = Path(cfg.folder)
    if not folder.is_dir():
        raise missing(folder, "pipeline")
    story = Story(folder)
    if not story.stages:
        raise UserError(f"folder={folder}: no run folder below it has a status.json")
    if story.older:
        raise UserError(f"{folder} was made by an earlier version ({story.older}): that version writes its report")
    print(write(folder, cfg.samples, cfg.rates))


if __name__ == "__main__":
    main("report", ReportConfig, make, with_keys("report"))
