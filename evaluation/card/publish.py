"""Checks a checkpoint for its upload to the hub and prints the command that uploads it; it uploads nothing itself.

    llamatrain card runs/demo                                                 first: the card and the licence
    llamatrain publish runs/demo/ppo repo=org/name to=published/name          a copy that can be published, checked

The model must load (in transformers where it is installed, else here), its files be as they were written, its weights safetensors,
its card complete and its own, its licence there, and no text may hold a token, a key or a path of somebody's home. All that is
wrong is listed, a line each, with exit code 2. `to` makes a copy without trainer/ and without this machine's paths; weights are
linked where both lie on one disk.
"""

from __future__ import annotations

import sys
from pathlib import Path

from llamatrain import manifest
from llamatrain.config.program import main
from llamatrain.exits import EXIT_USER

from .checks import problems
from .config import PublishConfig
from .copying import copy


def publish(cfg: PublishConfig) -> None:
    """Check a checkpoint, or a copy of it, and print the command that uploads it."""
    folder = manifest.checkpoint_folder(cfg.checkpoint, "ppo")
    if cfg.to is not None:
        target = Path(cfg.to)
        copy(folder, target)
        print(f"{target} is a copy of {folder} without trainer/ and this machine's paths", file=sys.stderr)
        folder = target
    found = problems(folder, cfg.repo)
    if found:
        for problem in found:
            print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(EXIT_USER)
    shown = folder if cfg.to else Path(cfg.checkpoint)
    print(f"{shown} can be published; nothing was uploaded. The command:", file=sys.stderr)
    print(f"hf upload {cfg.repo} {quoted(folder)} . --repo-type model")


def quoted(path: Path) -> str:
    """Return a path as a shell takes it."""
    import shlex

    return shlex.quote(str(path))


if __name__ == "__main__":
    main("publish", PublishConfig, publish)
