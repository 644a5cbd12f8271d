"""Program `toyworld`: writes the documents, dialogues and prompts of a small simulated world, and which world it is."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llamatrain import config
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError
from llamatrain.run import Run, RunConfig

from .answers import QUALITIES, SAFETY_QUALITIES
from .dialogues import check_shares, dialogues, prompts
from .documents import documents
from .requests import Requests
from .world import World


@dataclass
class ToyworldConfig:
    """Sizes and mixtures; configs/toyworld.yaml explains the keys."""

    run: RunConfig
    seed: int
    documents_mb: float
    documents_eval_mb: float
    dialogues: int
    dialogues_eval: int
    prompts: int
    prompts_eval: int
    safety_fraction: float
    dialogues_safety_fraction: float
    borderline_fraction: float
    qualities: dict[str, float]
    safety_qualities: dict[str, float]

    def __post_init__(self) -> None:
        for key in ("documents_mb", "documents_eval_mb", "dialogues", "dialogues_eval", "prompts", "prompts_eval"):
            if getattr(self, key) <= 0:
                raise UserError(f"{key}={getattr(self, key)}: need more than 0")
        for key in ("safety_fraction", "dialogues_safety_fraction"):
            total = getattr(self, key) + self.borderline_fraction
            if not (getattr(self, key) >= 0 and self.borderline_fraction >= 0 and total <= 1):
                other = f"borderline_fraction={self.borderline_fraction}"
                raise UserError(f"{key}={getattr(self, key)}, {other}: need shares that add up to at most 1")
        check_shares("qualities", self.qualities, QUALITIES)
        check_shares("safety_qualities", self.safety_qualities, SAFETY_QUALITIES)


def make(cfg: ToyworldConfig) -> None:
    """Writes all files of the world into the run folder."""
    world = World(cfg.seed)
    requests = Requests(world)
    safety, borderline = cfg.safety_fraction, cfg.borderline_fraction
    told = (cfg.dialogues_safety_fraction, borderline, cfg.qualities, cfg.safety_qualities)
    files: dict[str, Iterable[dict[str, Any]]] = {
        "documents": documents(world, requests, cfg.documents_mb, "train"),
        "documents_eval": documents(world, requests, cfg.documents_eval_mb, "eval"),
        "dialogues": dialogues(requests, cfg.dialogues, *told, held_out=False),
        "dialogues_eval": dialogues(requests, cfg.dialogues_eval, *told, held_out=True),
        "prompts": prompts(requests, cfg.prompts, safety, borderline, held_out=False),
        "prompts_eval": prompts(requests, cfg.prompts_eval, safety, borderline, held_out=True),
    }
    with Run(cfg.run, "toyworld", cfg) as run:
        world.save(run.folder)
        for name, rows in files.items():
            counts: Counter[str] = Counter()
            write_rows(run.folder / f"{name}.jsonl", _counted(rows, counts))
            run.log(0, {f"toyworld/{name}": counts["rows"]})
            run.print(f"{name}: {counts['rows']:,} rows, {counts['safety']:,} on safety")


def _counted(rows: Iterable[dict[str, Any]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    for row in rows:
        counts["rows"] += 1
        counts["safety"] += bool(row.get("safety"))
        yield row


if __name__ == "__main__":
    config.main("toyworld", ToyworldConfig, make)
