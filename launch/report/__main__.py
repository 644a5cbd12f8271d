"""Writes the report page of a pipeline beside its run folders; of several, one page that compares them.

    llamatrain report runs/demo                  runs/demo/report.html
    llamatrain report runs/a runs/b runs/c       runs/comparison.html: results with the spread over seeds, differences, curves

`wandb=offline` or `online` puts the results, samples and page of one on wandb, too, in the group of its stages' runs.
"""

from __future__ import annotations

from pathlib import Path

from llamatrain import atomic
from llamatrain.config.program import main
from llamatrain.errors import UserError, missing

from ..programs import with_keys
from ..story import Story
from .comparison import comparison
from .config import ReportConfig
from .dashboard import show
from .page import write


def make(cfg: ReportConfig) -> None:
    """Write the report of a pipeline's folder, or a page that compares several."""
    stories = [_story(Path(folder), cfg) for folder in (cfg.folder, *cfg.others)]
    if len(stories) == 1 and cfg.output is not None:
        raise UserError(f"output={cfg.output}: need several folders; the report of one lies in its folder")
    if len(stories) > 1 and cfg.wandb is not None:
        raise UserError(f"wandb={cfg.wandb}: need a single folder; a comparison is a page alone")
    if len(stories) == 1:
        page = write(stories[0].folder, cfg.samples, cfg.rates)
        print(page)
        if cfg.wandb is not None and show(stories[0], cfg.wandb, page):
            print(f"results, samples and the page are on wandb ({cfg.wandb}), group {stories[0].name}")
        return
    target = Path(cfg.output) if cfg.output else stories[0].folder.absolute().parent / "comparison.html"
    if not target.parent.is_dir():
        raise UserError(f"output={target}: there is no folder {target.parent}")
    atomic.write_bytes(target, comparison(stories).encode(errors="replace"))
    print(target)


def _story(folder: Path, cfg: ReportConfig) -> Story:
    if not folder.is_dir():
        raise missing(folder, "pipeline")
    story = Story(folder, cfg.samples, cfg.rates)
    if not story.stages:
        raise UserError(f"folder={folder}: no run folder below it has a status.json")
    if story.older:
        raise UserError(f"{folder} was made by an earlier version ({story.older}): that version writes its report")
    return story


if __name__ == "__main__":
    main("report", ReportConfig, make, with_keys("report"))
