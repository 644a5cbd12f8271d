"""People rate in the browser: a page on this machine, a link for each rater, a file of preferences at the end.

    llamatrain collect comparisons=runs/demo/v1_compare out=ratings/v1_preferences.jsonl

Every verdict is on the disk before the next page comes, in a folder beside `out`: a kill loses nothing, and the same
command goes on. `out` itself appears when everything is rated or somebody presses "Finish": a pipeline that waits for it
(`data.ratings`) never sees a part of it.
"""

from __future__ import annotations

import importlib
import shlex
import socket
from pathlib import Path
from typing import Any

from llamatrain.config.program import main
from llamatrain.errors import UserError
from llamatrain.lock import Lock
from llamatrain.progress import counted
from llamatrain.text_files import DamagedFileError, read_json

from .collection import FINISHED, Collection
from .config import CollectConfig
from .exports import export
from .store import Store
from .task import Task

LINGER = 5  # seconds that the pages are still served after the end, to say so


def collect(cfg: CollectConfig) -> None:
    """Serve the page until everything is rated, somebody finishes, or a signal stops it."""
    try:
        from . import server
    except ImportError as error:
        raise UserError(
            f"collect: need {error.name} (pip install 'llamatrain[people]'), which is not installed"
        ) from None
    out = Path(cfg.out)
    folder = out.with_suffix("")
    fresh = not (folder / "verdicts.sqlite").exists()
    if fresh and out.exists():
        raise UserError(f"out={out}: the file is there already; need another name, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder):
        store = Store(folder / "verdicts.sqlite")
        try:
            if cfg.export is None and store.fact(FINISHED) is not None and out.exists():
                print(f"{out} was finished on {store.fact(FINISHED)}")
            else:
                collection = Collection(cfg, task_of(cfg), store)
                if cfg.export is not None:
                    print(f"wrote {export(collection, cfg.export)}")
                    return
                if not collection.finished.is_set():
                    server.serve(collection, LINGER, lambda port: print(invitations(collection, port), flush=True))
                print(ended(collection))
        finally:
            store.close()
    if out.exists() and (command := going_on(cfg)):
        print(command)


def task_of(cfg: CollectConfig) -> Task:
    """Return the page of the task."""
    made: Task = importlib.import_module(f".{cfg.task}", __package__).Task(cfg)
    return made


def invitations(collection: Collection, port: int) -> str:
    """Return what is to be rated and everyone's link."""
    cfg, store = collection.cfg, collection.store
    done, wanted = store.progress(cfg.each)
    gold = sum(item.known is not None for item in collection.items.values())
    each = "" if cfg.each == 1 else f" by {cfg.each} raters each"
    told = [f"{counted(wanted // cfg.each, 'item')} to rate{each}"] if wanted or not collection.task.asks else []
    told += ["raters ask, and models answer"] if collection.task.asks else []
    told += [f"{counted(gold, 'gold item')} among them"] if gold else []
    told += [f"{done:,} of {wanted:,} verdicts are there"] if done else []
    lines = ["; ".join(told)]
    host = socket.gethostname() if cfg.host in ("0.0.0.0", "::") else cfg.host
    links = {rater.name: f"http://{host}:{port}/join/{rater.token}" for rater in store.raters()}
    width = max(map(len, links))
    lines += [f"  {name:{width}}  {link}" for name, link in links.items()]
    lines.append(
        "Each link is one person's own: who has it rates under that name. Ctrl-C stops; the same command goes on."
    )
    return "\n".join(lines)


def ended(collection: Collection) -> str:
    """Return what became of the verdicts on all but gold items."""
    said = [verdict for verdict in collection.store.verdicts() if collection.items[verdict.item].known is None]
    return f"wrote {collection.out}: {counted(len(collection.rows()), 'row')} of {counted(len(said), 'verdict')}"


def going_on(cfg: CollectConfig) -> str:
    """Return the command of the pipeline whose comparisons were rated, where it waits for this file; else nothing."""
    folder = Path(cfg.comparisons or "").absolute().parent.parent
    try:
        described, plan = (read_json(folder / name, dict[str, Any]) for name in ("pipeline.json", "plan.json"))
    except (OSError, DamagedFileError):
        return ""
    awaited = {Path(plan["working_folder"]) / file for stage in plan["stages"] for file in stage["awaited"]}
    if Path(cfg.out).absolute() not in awaited:
        return ""
    program, *rest = described["command"]
    return f"The pipeline goes on with:\n  {program} {shlex.join(rest)}"


if __name__ == "__main__":
    main("collect", CollectConfig, collect)
