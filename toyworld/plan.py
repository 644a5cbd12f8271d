"""What the toy world and those who rate and judge in it make, for the plans of later stages. Imports no torch."""

from __future__ import annotations

from llamatrain.given import Given
from llamatrain.planning import Light, Planner, Rows

from .config import KINDS, JudgeConfig, RateConfig, SetsConfig, ToyworldConfig

DIALOGUE, PROMPT = 54.0, 22.0  # tokens of a row on average, by a tokenizer of 1,024 pieces
TURN, INSTRUCTED = 33.0, 138.0  # of one turn of a long dialogue, and of a dialogue with instructions
RATED = {"helpfulness": 0.6, "safety": 0.4}  # pairs of a kind, as a share of the comparisons: the demo's


def _plan_toyworld(cfg: ToyworldConfig, given: Given) -> Light:
    counts = {"dialogues": (DIALOGUE, DIALOGUE), "prompts": (PROMPT, PROMPT)}
    if cfg.turns:
        counts["turns"] = (11 * TURN, 20 * TURN)  # of 2 to 20 turns, and of 20
    made = {
        f"{name}{end}.jsonl": Rows(getattr(cfg, f"{name}{end}"), tokens)
        for name, sizes in counts.items()
        for end, tokens in zip(("", "_eval"), sizes, strict=True)
    }
    return Light({**made, **({"instructed.jsonl": Rows(cfg.instructed, INSTRUCTED)} if cfg.turns else {})})


def _plan_rate(cfg: RateConfig, given: Given) -> Light:
    """Each kind gets the pairs of its own prompts, safety some of the other kind's beside them."""
    pairs, ends = given.rows(cfg.comparisons, "preference"), {"": 1 - cfg.eval_fraction, "_eval": cfg.eval_fraction}
    return Light(
        {
            f"preferences_{kind}{end}.jsonl": pairs.part(RATED[kind] * share)
            for kind in KINDS
            for end, share in ends.items()
        }
    )


def _plan_sets(cfg: SetsConfig, given: Given) -> Light:
    return Light({f"dialogues_{name}.jsonl": Rows(cfg.dialogues, DIALOGUE) for name in ("temporal", "tools")})


def _plan_judge(cfg: JudgeConfig, given: Given) -> Light:
    return Light()


PLANS: dict[str, Planner] = {
    "toyworld": _plan_toyworld,
    "toyworld.sets": _plan_sets,
    "rate": _plan_rate,
    "judge": _plan_judge,
}
