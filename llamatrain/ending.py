"""How a program that was started by itself ends: what was measured, where the result lies, and what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What follows a program; `{made}` is what it made, any other name a setting of the program's.
NEXT = {
    "tokenizer": "corpus run.name=corpus documents=my_texts.jsonl tokenizer={made}",
    "corpus": "pretrain run.name=base corpus={made} tokenizer={tokenizer} model=small tokens=3e6",
    "pretrain": "sft run.name=chat checkpoint={made} train=my_dialogues.jsonl",
    "sft": "chat checkpoint={made}",
    "reward": "reward.evaluate run.name=accuracy checkpoint={made} preferences=my_held_out_preferences.jsonl",
    "rejection_sampling": "ppo run.name=ppo checkpoint={made} helpfulness=runs/helpfulness/final safety=runs/safety/final "
    "prompts=my_prompts.jsonl",
    "ppo": "chat checkpoint={made}",
}
# What is reported of a run: its metrics and their names. Where held-out data were measured, nothing else is.
HELD_OUT = {"eval/accuracy": "accuracy", "eval/loss": "loss"}
TRAINED = {"ppo/score_combined": "mean score of the last batch (logit)", "ppo/kl": "KL", "train/loss": "training loss"}


def ending(program: str, folder: Path, last: Mapping[str, float], settings: Mapping[str, Any]) -> str:
    """Return the last line of a program's run, from the newest value of each metric; empty where nothing follows."""
    if program not in NEXT:
        return ""
    made = folder / "final" if (folder / "final").exists() else folder
    measured = _measured(last)
    following = NEXT[program].format_map({**settings, "made": made})
    return " · ".join([*([measured] if measured else []), str(made), f"next: llamatrain {following}"])


def _measured(last: Mapping[str, float]) -> str:
    held_out = [f"{name} {last[key]:.3f}" for key, name in HELD_OUT.items() if key in last]
    if held_out:
        return f"held-out {', '.join(held_out)}"
    return ", ".join(f"{name} {last[key]:.3f}" for key, name in TRAINED.items() if key in last)
