"""Program `toyworld`: writes the documents, dialogues and prompts of a small simulated world, and its settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from llamatrain.config.program import main
from llamatrain.data.rows import write_rows
from llamatrain.run import Run

from .config import ToyworldConfig
from .dialogues import dialogues, prompts
from .documents import documents
from .instructions import instructed, save_constraints, turns
from .requests import Requests
from .world import World


def make(cfg: ToyworldConfig) -> None:
    """Write all files of the world into the run folder."""
    world = World(cfg.seed)
    requests = Requests(world)
    adversarial, borderline = cfg.adversarial_fraction, cfg.borderline_fraction
    mixture = (cfg.dialogues_adversarial_fraction, borderline, cfg.qualities, cfg.safety_qualities)
    # Generators: nothing is held in memory, each file is drawn while it is written.
    files: dict[str, Iterable[Mapping[str, object]]] = {
        "documents": documents(world, requests, cfg.documents_mb, "train"),
        "documents_eval": documents(world, requests, cfg.documents_eval_mb, "eval"),
        "dialogues": dialogues(requests, cfg.dialogues, *mixture, held_out=False, guided=cfg.guided_fraction),
        "dialogues_eval": dialogues(requests, cfg.dialogues_eval, *mixture, held_out=True),
        "prompts": prompts(requests, cfg.prompts, adversarial, borderline, held_out=False),
        "prompts_eval": prompts(requests, cfg.prompts_eval, adversarial, borderline, held_out=True),
        "prompts_borderline": prompts(requests, cfg.prompts_borderline, 0.0, 1.0, held_out=True),
    }
    if cfg.turns:
        files |= {
            "turns": turns(requests, cfg.turns, held_out=False),
            "turns_eval": turns(requests, cfg.turns_eval, held_out=True),
            "instructed": instructed(requests, cfg.instructed),
        }
    with Run(cfg.run, "toyworld", cfg, dashboard=False) as run:
        world.save(run.folder)
        save_constraints(run.folder)
        for name, rows in files.items():
            counts: Counter[str] = Counter()
            write_rows(run.folder / f"{name}.jsonl", _counted(rows, counts))
            run.log(0, {f"toyworld/{name}": counts["rows"]})
            run.print(f"{name}: {counts['rows']:,} rows, {counts['adversarial']:,} adversarial")


def _counted(rows: Iterable[Mapping[str, object]], counts: Counter[str]) -> Iterator[Mapping[str, object]]:
    """Pass rows on and count them on the way: they are written as they are made, so nobody can count them later."""
    for row in rows:
        counts["rows"] += 1
        counts["adversarial"] += bool(row.get("is_adversarial"))
        yield row


if __name__ == "__main__":
    main("toyworld", ToyworldConfig, make)
