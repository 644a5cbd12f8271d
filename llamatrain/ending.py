"""How a program that was started by itself ends: what was measured, where the result lies, and what comes next."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What is reported of a run: its metrics and their names. Where held-out data were measured, nothing else is.
HELD_OUT = {"eval/accuracy": "accuracy", "eval/loss": "loss"}
TRAINED = {"ppo/score_combined": "mean score of the last batch (logit)", "ppo/kl": "KL", "train/loss": "training loss"}


def ending(then: str, folder: Path, last: Mapping[str, float], settings: Mapping[str, Any]) -> str:
    """Return the last line of a run, from the newest value of each metric; empty where no command follows.

    `then` is that command (`description.Program`), in which `{made}` stands for what the run made, any other name for one
    of its settings.
    """
    if not then:
        return ""
    made = folder / "final" if (folder / "final").exists() else folder
    measured = _measured(last)
    following = then.format_map({**settings, "made": made})
    name = os.environ.get(
        "LLAMATRAIN_NAME", "llamatrain"
    )  # as it can be typed: of an installation that is not on the PATH
    return " · ".join([*([measured] if measured else []), str(made), f"next: {name} {following}"])


def _measured(last: Mapping[str, float]) -> str:
    held_out = [f"{name} {last[key]:.3f}" for key, name in HELD_OUT.items() if key in last]
    if held_out:
        return f"held-out {', '.join(held_out)}"
    return ", ".join(f"{name} {last[key]:.3f}" for key, name in TRAINED.items() if key in last)
