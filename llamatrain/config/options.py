"""What stands on a program's command line: overrides, options, and whether it only asks. Imports nothing heavy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

FROM_FILE = "--config"  # of a whole configuration, as a pipeline gives it to its stages


def asks(arguments: Sequence[str]) -> bool:
    """Tell whether a command line asks for text alone: help, or the composed configuration."""
    return any(a in ("--help", "-h") for a in arguments) or ("--cfg", "job") in itertools.pairwise(arguments)


def divided(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return overrides and options."""
    # The deepspeed launcher adds --local_rank=N, which the environment says as well.
    options = [a for a in arguments if a.startswith("-") and not a.startswith("--local_rank")]
    return [a for a in arguments if not a.startswith("-")], options
