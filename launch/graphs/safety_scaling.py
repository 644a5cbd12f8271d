"""How much safety data fine-tuning needs: the same base model, with growing shares of it (paper 4.2.3, A.4.2).

All helpful dialogues are kept, of the adversarial ones a share, each within all larger ones. Every variant answers held-out
and borderline prompts; its answers are scored by both reward models, which are trained from the variant with all data.
"""

from __future__ import annotations

from dataclasses import replace

from llamatrain.errors import UserError

from ..graph import Graph, Stage
from .chat import Chat, Data, Rated, collected, made_by, pretrained, replay, reward_models
from .measuring import measure


def safety_scaling(g: Graph, cfg: Chat, data: Data) -> None:
    """Add a fine-tuning for each share, and what measures them."""
    world = g.add("toyworld", "world") if data.world else None
    if world is not None:
        borderline = data.prompts_borderline or [world / "prompts_borderline.jsonl"]
        data = replace(made_by(world, data), prompts_borderline=borderline)
    if not data.dialogues:
        raise UserError(
            "method=safety_scaling: need data.dialogues, of which the adversarial rows have is_adversarial: true"
        )
    if not data.prompts_borderline:
        g.leave_out("false refusals of borderline prompts", "data.prompts_borderline (harmless prompts that sound bad)")
    corpus, base = pretrained(g, cfg, data)
    text = {"eval": data.dialogues_eval, **replay(g, cfg, corpus, "sft")}
    models: dict[str, str] = {}
    for share in sorted({*cfg.safety_shares} - {1.0}):
        part = [f"{source}@adversarial{100 * share:g}%" for source in data.dialogues]
        models[named(share)] = g.add("sft", f"sft_{named(share)}", checkpoint=base, train=part, **text).final
    sft = g.add("sft", checkpoint=base, train=data.dialogues, **text)
    models[named(1.0)] = sft.final
    rewards: dict[str, list[Stage]] = {}
    with g.round(1):
        rated = [Rated(data.preferences, data.preferences_eval, cfg.folds)] if data.preferences else []
        rated += collected(g, cfg, data, world, {"base": base, "sft": sft.final}, 1)
        if rated:
            rewards = reward_models(g, cfg, sft, rated)
    for kind in {"helpfulness", "safety"} - rewards.keys():
        g.leave_out(f"{kind} scores", f"data.preferences.{kind} (or data.ratings)")
    measure(g, data, world, models, rewards, corpus)


def named(share: float) -> str:
    """Return what a variant is called: safety_10 has a tenth of the safety data."""
    return f"safety_{100 * share:g}".replace(".", "_")
