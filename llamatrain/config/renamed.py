"""Keys that had other names in earlier versions: an old one is answered with the new one, never taken for it."""

from __future__ import annotations

from collections.abc import Iterable

ANY = ""  # of all programs that have the new key
KEYS = {  # program -> former key -> what it is called now
    ANY: {
        "limit": "max_prompts",
        "batch_size": "generation_batch_size",
        "temperature": "sampling.temperature",
        "temperatures": "sampling.temperatures",
        "top_p": "sampling.top_p",
        "max_new_tokens": "sampling.max_new_tokens",
        "beta": "kl_coef",
        "lam": "gae_lambda",
        "batch_prompts": "rollout_prompts",
        "mini_batch": "mini_batch_prompts",
        "isolate": "isolate_documents",
        "eval_windows": "eval_sequences",
        "corpus_windows": "corpus_sequences",
        "safety_fraction": "adversarial_fraction",
        "dialogues_safety_fraction": "dialogues_adversarial_fraction",
    },
    "sft": {"seq_len": "max_length"},
    "rejection_sampling": {"seq_len": "max_length"},
    "report": {"run": "folder"},  # run.name and run.dir
    "card": {"run": "folder"},
}


def now_called(program: str, key: str) -> str | None:
    """Return what a former key of a program is called now; None for any other key."""
    return KEYS.get(program, {}).get(key) or KEYS[ANY].get(key)


def older(program: str, keys: Iterable[str]) -> str:
    """Return in words which of a configuration's keys only an earlier version had; empty where there is none."""
    return next((f"its {key} is now called {new}" for key in keys if (new := now_called(program, key))), "")
