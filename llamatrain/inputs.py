"""What a program's settings name on disk, as hashes of its content: whether a result would be made from the same again."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from .data.rows import file_fingerprint
from .errors import MissingFileError
from .keys import files_read

# What identifies a folder of a kind: the file that names or is its content.
CONTENT = {
    "corpus": ("manifest.json", "train/manifest.json", "eval/manifest.json"),
    "tokenizer": ("tokenizer.model",),
    "world": ("world.json",),
    "file": ("scores.jsonl",),  # of an earlier run of reward.evaluate
}


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
