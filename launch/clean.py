"""Lists replaced results and tokenized data, and deletes them on request.

    llamatrain clean                                          those below runs/
    llamatrain clean runs/demo                                ... below a folder
    llamatrain clean runs/demo remove=true                    deletes them
    llamatrain clean runs/demo/ppo.replaced-1a2b remove=true  deletes one

A stage that reruns keeps its former folder beside it, and so does a run with run.resume=never. Tokenized data (`.cache`)
are made again where they are needed; those that a process uses stay.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamatrain.config import program
from llamatrain.errors import UserError
from llamatrain.progress import duration
from llamatrain.replaced import MARK, NAME, bytes_of, size
from llamatrain.runs import read_status

from .programs import with_keys
from .record import known_record

if TYPE_CHECKING:
    from llamatrain.data.cache import Kept

PASSED_OVER = {"checkpoints", "wandb", "chunks", "work"}  # of a run's own: no run lies in them


@dataclass
class CleanConfig:
    """configs/clean.yaml says what each key means."""

    folder: str
    remove: bool


def replaced(folder: Path) -> Iterator[Path]:
    """Yield the replaced runs at and below a folder; a folder of another such name is somebody's own."""
    for place, names, _ in os.walk(folder):
        path = Path(place)
        if MARK in path.name:
            names.clear()  # nothing below it is listed on its own: it goes as a whole
            if NAME.fullmatch(path.name):
                yield path
        else:
            names[:] = sorted(name for name in names if name not in PASSED_OVER)


def tokenized(folder: Path) -> Iterator[Kept]:
    """Yield the tables of tokenized rows at and below a folder."""
    from llamatrain.data import cache  # loads numpy, which telling of this program does not need

    if folder.parent.name == cache.PLACE:
        yield from (one for one in cache.kept(folder.parent) if one.place == folder)
    for place, names, _ in os.walk(folder):
        path = Path(place)
        if path.name == cache.PLACE:
            yield from cache.kept(path)
            names.clear()
        else:
            names[:] = sorted(name for name in names if name not in PASSED_OVER)


def clean(cfg: CleanConfig) -> None:
    """List the replaced results and tokenized data, or remove them."""
    from llamatrain.data import cache

    folder = Path(cfg.folder)
    if not folder.is_dir():
        raise UserError(f"folder={folder}: there is no such folder")
    found, total = list(replaced(folder)), 0
    for path in found:
        held = bytes_of(path)
        total += held
        record, status = known_record(path), read_status(path)
        took = duration(record.seconds if record is not None else float(status.get("seconds") or 0.0))
        age = duration(max(0.0, time.time() - float(status.get("updated") or path.stat().st_mtime)))
        print(f"{'removed ' if cfg.remove else ''}{path}  {size(held)}, took {took}, {age} old", flush=True)
        if cfg.remove:
            shutil.rmtree(path)
    tables = list(tokenized(folder))
    for table in tables:
        stays = cfg.remove and not cache.remove(table.place)
        total += 0 if stays else table.bytes
        age = duration(max(0.0, time.time() - table.used))
        what = "in use, or without locks to tell; stays: " if stays else "removed " if cfg.remove else ""
        print(f"{what}{table.place}  {size(table.bytes)}, {table.about}, last used {age} ago", flush=True)
    if not found and not tables:
        print(f"no replaced results and no tokenized data below {folder}")
    elif cfg.remove:
        print(f"{size(total)} freed")
    else:
        print(f"{size(total)} in total; remove=true deletes them")


def main(argv: Sequence[str] | None = None) -> None:
    """Take a folder without its key: `llamatrain clean runs/demo`."""
    program.main("clean", CleanConfig, clean, with_keys("clean", argv))


if __name__ == "__main__":
    main()
