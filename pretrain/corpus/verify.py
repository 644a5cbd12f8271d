"""Program `corpus.verify`: checks every file of a corpus against the sizes and hashes written with it."""

from __future__ import annotations

import sys
from pathlib import Path

from llamatrain.config.program import main
from llamatrain.data import shards
from llamatrain.errors import UserError, missing

from .config import VerifyConfig

PARTS = ("train", "eval")
ANEW = "rebuild it with `llamatrain corpus` (run.resume=never where an altered file has its old size)"


def verify(cfg: VerifyConfig) -> None:
    """Check all parts; UserError names every file that is cut, missing or altered."""
    folder = Path(cfg.corpus)
    parts = [folder / part for part in PARTS if (folder / part).is_dir()]
    if not parts:
        raise missing(folder / "train" / shards.MANIFEST, made_by="corpus")
    checked, faults = 0, []
    for part in parts:
        for path, fault in shards.verify(part):
            checked += 1
            if fault:
                faults.append(f"{path} {fault}")
    if faults:
        raise UserError("\n".join([f"{len(faults)} of {checked} files of {folder} are damaged", *faults, ANEW]))
    print(f"{folder}: {checked} files are intact", file=sys.stderr)


if __name__ == "__main__":
    main("corpus_verify", VerifyConfig, verify)
