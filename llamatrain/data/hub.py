"""Data sets of the Hugging Face hub, and local folders of that form: `owner/name[/folder][:split]`, read through `datasets`."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from llamatrain.data.files import Place, Row
from llamatrain.errors import UserError

HUB_SECONDS = 5.0  # in which the hub answers, or counts as out of reach


@dataclass(frozen=True)
class Version:
    """Which of a hub data set's configurations (None: its default), at which commit, branch or tag (None: the newest)."""

    config: str | None = None
    revision: str | None = None


NEWEST = Version()


def read_hub(
    name: str, begin: int = 0, end: int | None = None, version: Version = NEWEST, loaded: bool = False
) -> Iterator[tuple[Place, Row]]:
    """Yield the rows of `owner/name[/folder][:split]`, or of a local folder, with where they stand.

    A part is some of the data set's own shards: those are streamed, nothing is held or cached. A whole data set is
    loaded through `datasets`' cache, and mapped into memory; so is a part that is `loaded`: some rows of it.
    """
    streamed = (begin, end) != (0, None) and not loaded
    rows = _stream(name, version) if streamed else _load(name, version)
    place = Place(name, 0 if streamed else begin, unit=f", shard {begin}, row " if streamed else ", row ")
    if streamed:
        rows = rows.shard(num_shards=rows.num_shards, index=begin)
    elif loaded:
        rows = rows.select(range(begin, len(rows) if end is None else end))
    for number, row in enumerate(rows, start=1):
        place.number = number
        yield place, dict(row)


def hub_shards(name: str, version: Version = NEWEST) -> int:
    """Return how many shards a data set has, which can be streamed one by one."""
    return int(_stream(name, version).num_shards)


def hub_splits(name: str) -> list[str]:
    """Return the splits that a data set has."""
    made = _builder(name, NEWEST)
    return [str(split) for split in (made.config.data_files or made.info.splits or {"train": None})]


def hub_stamp(name: str, version: Version = NEWEST) -> str:
    """Return what tells whether a data set changed, without loading it: its commit; of a folder, a hash of its files' times."""
    made = _builder(name, version)
    if made.repo_id is not None:
        return str(made.hash)
    found = made.config.data_files or {}
    known = {part: (list(files), list(files.origin_metadata)) for part, files in found.items()}
    return hashlib.sha256(repr(sorted((str(part), value) for part, value in known.items())).encode()).hexdigest()


def hub_fingerprint(name: str) -> str:
    """Return the fingerprint that `datasets` gives a data set."""
    return str(_load(name)._fingerprint)


def hub_length(name: str) -> int:
    """Return how many rows a data set has."""
    return len(_load(name))


def _load(name: str, version: Version = NEWEST) -> Any:
    made = _builder(name, version)
    with _refusing(name):
        made.download_and_prepare()
        return made.as_dataset(split=_spelled(name)[2])


def _stream(name: str, version: Version) -> Any:
    """Return a data set as a stream. The hub is asked once a process, however many shards it reads; a folder each time."""
    local = Path(_spelled(name)[0]).exists()
    return (_open_stream.__wrapped__ if local else _open_stream)(name, version)


@lru_cache(maxsize=4)
def _open_stream(name: str, version: Version) -> Any:
    made = _builder(name, version)
    with _refusing(name):
        return made.as_streaming_dataset(split=_spelled(name)[2])


def _builder(name: str, version: Version) -> Any:
    """Return what `datasets` makes a data set with; it knows its files and, from the hub, its commit (`hash`)."""
    import datasets  # here, because it takes a second and most runs read files
    import huggingface_hub

    path, folder, _ = _spelled(name)
    revision = version.revision
    if revision is not None and Path(path).exists():
        raise UserError(f"{name}: revision={revision}: a local folder has no revisions, need null")
    if not (Path(path).exists() or huggingface_hub.constants.HF_HUB_OFFLINE) and hub_away():
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True  # only the cache is left
    with _refusing(name):
        made = datasets.load_dataset_builder(path, version.config, data_dir=folder, revision=revision)
    # Without the hub `datasets` takes what it downloaded last, of whatever revision.
    if made.name == "cache" and revision not in (None, made.hash):
        raise UserError(
            f"{name}: revision={revision}: the hub cannot be reached and the cache holds {made.hash}, need the hub or that revision"
        )
    return made


@cache
def hub_away() -> str:
    """Return why the hub cannot be reached, "" where it can: asked once, since `datasets` retries for over a minute."""
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urlopen(Request(hub, method="HEAD"), timeout=HUB_SECONDS).close()
    except HTTPError:
        return ""  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        away = isinstance(reason, (socket.gaierror, ConnectionError, TimeoutError))
        return f"{hub} cannot be reached: {reason}" if away else ""
    return ""


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn what `datasets` finds wrong with a name, a configuration, a revision, a split or the files into a UserError."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        if hub_away.cache_info().currsize and hub_away():
            raise UserError(f"{name}: no such file, nor in the cache of `datasets`, and {hub_away()}") from error
        raise UserError(f"{name}: no such file, and `datasets` cannot load it either: {error}{cause}") from error


def _spelled(name: str) -> tuple[str, str | None, str]:
    """Split `owner/name[/folder][:split]`, or a local path, into the data set, its folder and its split."""
    path, _, split = name.partition(":")
    parts = path.split("/")
    folder = None
    if len(parts) > 2 and not path.startswith((".", "/")):
        path, folder = "/".join(parts[:2]), "/".join(parts[2:])
    return path, folder, split or "train"
