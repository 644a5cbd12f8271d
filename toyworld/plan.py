"""What the toy world and those who rate and judge in it make, for the plans of later stages. Imports no torch."""

from __future__ import annotations

from llamatrain.given import Given
from llamatrain.planning import Light, Planner, Rows

from .config import KINDS, JudgeConfig, RateConfig, ToyworldConfig

DIALOGUE, PROMPT = 64.0, 28.0  # tokens of a row on average, by a tokenizer of 1,024 pieces


def _plan_toyworld(cfg: ToyworldConfig, given: Given) -> Light:
    counts = {"dialogues": DIALOGUE, "prompts": PROMPT}
    return Light(
        {
            f"{name}{end}.jsonl": Rows(getattr(cfg, f"{name}{end}"), tokens)
            for name, tokens in counts.items()
            for end in ("", "_eval")
        }
    )


def _plan_rate(cfg: RateConfig, given: Given) -> Light:
    """Each kind gets the pairs of its own prompts, about half of all."""
    pairs = given.rows(cfg.comparisons, "preference")
    shares = {"": (1 - cfg.eval_fraction) / 2, "_eval": cfg.eval_fraction / 2}
    return Light(
        {f"preferences_{kind}{end}.jsonl": pairs.part(share) for kind in KINDS for end, share in shares.items()}
    )


def _plan_judge(cfg: JudgeConfig, given: Given) -> Light:
    return Light()


PLANS: dict[str, Planner] = {"toyworld": _plan_toyworld, "rate": _plan_rate, "judge": _plan_judge}
