"""Ask a checkpoint the prompts of the paper's automatic safety benchmarks, and judge what it answers (A.4.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from llamatrain import atomic, checkpoint, distributed, manifest
from llamatrain.config.program import main
from llamatrain.data.rows import file_fingerprint, write_rows
from llamatrain.responses.answers import Answerer
from llamatrain.responses.models import generated_at_once
from llamatrain.run import Run

from ..results import Results
from .answering import given, sampled
from .classifiers import Classifier
from .config import JUDGED, METHOD, RESULT, SafetyBenchmarkConfig
from .judging import NEEDED, JudgedRow, classifiers, judged, leave_out
from .measures import NAMES, REFERENCE, flat, measure, tables
from .sets import Found, read_sets


def safety_benchmark(cfg: SafetyBenchmarkConfig) -> None:
    """Measure how true, toxic, positive and refusing a checkpoint's answers are."""
    found, judges = read_sets(cfg.root, cfg.sets, cfg.max_prompts, cfg.examples), classifiers(cfg)
    leave_out(cfg, found, judges)
    parents, data, answers = {}, dict(found.fingerprints), {}
    if cfg.checkpoint is not None:
        parents = {"checkpoint": checkpoint.resolve(cfg.checkpoint, "ppo")}
        cfg.generation_batch_size = generated_at_once(cfg.generation_batch_size, parents, cfg.dtype)
    elif cfg.responses is not None:
        answers, data["responses"] = given(cfg, found), file_fingerprint(cfg.responses)
    with Run(cfg.run, "safety_benchmark", cfg, parents, data) as run:
        run.resume({})
        for name, why in found.absent.items():
            run.print(f"{NAMES[name]} is not measured: {why}")
        if parents:
            rows = of_checkpoint(cfg, run, parents["checkpoint"], found, judges)
        else:
            items = [item for own in found.items.values() for item in own]
            rows = judged(run, judges, items, [answers[item.set, item.id] for item in items], cfg.chunk_responses)
        if run.is_main:
            report(cfg, run, parents.get("checkpoint"), found, rows)


def of_checkpoint(
    cfg: SafetyBenchmarkConfig, run: Run, folder: Path, found: Found, judges: Mapping[str, Classifier]
) -> list[JudgedRow]:
    """Return a checkpoint's judged answers, on all ranks; of a set that was measured before, those of then."""
    who, store = Answerer(run, folder, cfg, "safety_benchmark"), Results.of(cfg, folder)
    settings = {name: _settings(cfg, who, name, found.fingerprints[name], judges) for name in found.items}
    known = {name: store.known(f"safety_{name}", own) for name, own in settings.items()}
    rows = {name: list[JudgedRow](kept["rows"]) for name, kept in known.items() if kept is not None}
    for name in rows:
        run.print(f"{NAMES[name]} was measured before: {store.path(f'safety_{name}', settings[name])}")
    items = [item for name, own in found.items.items() if name not in rows for item in own]
    if items:
        answers = sampled(cfg, who, items)
        asked = [item for item in items if (item.set, item.id) in answers]
        made = judged(run, judges, asked, [answers[item.set, item.id] for item in asked], cfg.chunk_responses)
        for name in [name for name in found.items if name not in rows]:
            rows[name] = [row for row in made if row["set"] == name]
            if not rows[name]:
                found.leave_out(name, "no prompt leaves room for an answer in the context", cfg.sets is not None)
                continue
            store.keep(f"safety_{name}", settings[name], {"figures": measure(rows[name]), "rows": rows[name]})
    return [row for name in found.items for row in rows[name]]


def _settings(
    cfg: SafetyBenchmarkConfig, who: Answerer, name: str, content: str, judges: Mapping[str, Classifier]
) -> dict[str, Any]:
    """Return all that a set's result depends on beside the checkpoint."""
    asked = {role: judges[role].fingerprint for role in (*NEEDED[name], "refusal") if distributed.is_main()}
    own = {"method": METHOD, "content": content, "max_prompts": cfg.max_prompts, "classifiers": asked}
    return own | who.settings() | ({"examples": cfg.examples} if name == "truthfulqa" else {})


def report(cfg: SafetyBenchmarkConfig, run: Run, folder: Path | None, found: Found, rows: Sequence[JudgedRow]) -> None:
    """Write what was measured, and show it."""
    write_rows(run.folder / JUDGED, rows)
    sets, prompts = measure(rows), sum(map(len, found.items.values()))
    made = {
        "checkpoint": str(folder) if folder else None,
        "sha256": manifest.fingerprint(folder) if folder else None,
        "responses": cfg.responses,
        "formats": sorted({row["format"] for row in rows}),
        "sampling": vars(cfg.sampling) if folder else None,
        "classifiers": vars(cfg.classifiers),
        "prompts_left_out": prompts - len(rows),
        "sets": sets,
        "not_measured": found.absent,
        "reference": REFERENCE,
    }
    atomic.write_json(run.folder / RESULT, made)
    run.log(0, {**flat(sets), "safety/sets_not_measured": len(found.absent)})
    for table in tables(sets, found.absent):
        Console().print(table)


if __name__ == "__main__":
    main("safety_benchmark", SafetyBenchmarkConfig, safety_benchmark)
