"""What a program's settings name on disk: whether it is there, and its hashes, which say if a result would be the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from .data.kinds import KINDS
from .data.rows import file_fingerprint, local_file
from .errors import MissingFileError
from .keys import files_read

# What identifies a folder of a kind: the file that names or is its content.
CONTENT = {
    "corpus": ("manifest.json", "train/manifest.json", "eval/manifest.json"),
    "tokenizer": ("tokenizer.model",),
    "world": ("world.json",),
    "file": ("scores.jsonl",),  # of an earlier run of reward.evaluate
    "response": ("responses.jsonl",),
    "judgement": ("judgements.jsonl",),
}


def check_there(settings: Any) -> None:
    """Look for every file of rows before anything runs; MissingFileError names the key and the program that makes such files."""
    for key, metadata, value in files_read(settings):
        if metadata["reads"] in KINDS:
            try:
                local_file(value)
            except MissingFileError as error:
                made_by = metadata["made_by"]
                hint = f" (`llamatrain {made_by}` makes such files)" if made_by else ""
                raise MissingFileError(f"{key}: {error}{hint}") from None


def fingerprints(settings: Any) -> dict[str, str]:
    """Return key -> hash of all that it names, in order; checkpoints apart, which are a run's parents."""
    found: defaultdict[str, Any] = defaultdict(hashlib.sha256)
    for key, metadata, value in files_read(settings):
        if metadata["reads"] != "checkpoint":
            for source in _sources(value, metadata["reads"]):
                with suppress(MissingFileError):  # the program reports it when it reads it
                    found[key].update(file_fingerprint(source).encode())
    return {key: digest.hexdigest() for key, digest in found.items()}


def _sources(value: str, kind: str) -> list[str]:
    folder = Path(value)
    if not folder.is_dir():
        return [value]
    return [str(folder / name) for name in CONTENT.get(kind, ()) if (folder / name).is_file()]
