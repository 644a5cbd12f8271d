"""How much of PPO a rank does at once, and which models it keeps whole, where that is left to its memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llamatrain import distributed, footprint
from llamatrain.capacity import left_by_whole
from llamatrain.memory import check_room, responses_at_once, usable
from llamatrain.model.config import ModelConfig, load_config
from llamatrain.replaced import size
from llamatrain.shares import largest_share
from llamatrain.start import rows_at_once

from .ppo_config import PPOConfig


def choose_sizes(cfg: PPOConfig, policy: Path, context: int, ranks: int) -> tuple[bool, list[str]]:
    """Fill in how many responses a rank learns from and generates at once, where that is left to its memory.

    Returns whether the models that are only read stay whole (`keeps_whole`). Under ZeRO-3 the policy is gathered while it
    generates. UserError where a rank cannot even hold the policy as it samples.
    """
    learned = min(context, cfg.sampling.max_new_tokens)
    cfg.micro_batch_size = rows_at_once(cfg, policy, cfg.mini_batch_prompts, context, ranks, cfg.models, learned)
    model = load_config(policy)[0]
    if cfg.generation_batch_size is None:  # of the policy alone: the others may be smaller
        states = footprint.trained(model, cfg.zero, ranks, device=distributed.device().type).device
        check_room(states + (footprint.read(model, cfg.zero.dtype).weights if cfg.zero.stage == 3 else 0), ranks)
    held = footprint.models(model, cfg.zero, ranks, cfg.models, distributed.device().type).total
    cfg.generation_batch_size = responses_at_once(
        cfg.generation_batch_size, model, cfg.zero.dtype, int(cfg.zero.stage == 3), ranks, held
    )
    return keeps_whole(cfg, model, context, ranks)


def keeps_whole(cfg: PPOConfig, model: ModelConfig, context: int, ranks: int) -> tuple[bool, list[str]]:
    """Tell whether the models that are only read lie whole on every rank where ZeRO-3 shards the others, and say why.

    Whole ones need not be gathered for what they judge. They may take what the chosen sizes leave and no more: fewer
    responses at once would cost more than that saves.
    """
    if cfg.zero.stage < 3 or ranks == 1:
        return True, []
    assert cfg.micro_batch_size is not None
    assert cfg.generation_batch_size is not None
    model, zero = replace(model, activation_checkpointing=cfg.activation_checkpointing), cfg.zero
    device, learned = distributed.device().type, min(context, cfg.sampling.max_new_tokens)
    learning = footprint.training(model, zero, ranks, cfg.micro_batch_size, context, True, device, cfg.models, learned)
    responses = min(cfg.generation_batch_size, largest_share(cfg.rollout_prompts, ranks))
    beside = footprint.models(model, zero, ranks, cfg.models, device)
    sampling = footprint.sampling(model, zero.dtype, responses, context, 1, beside)
    more, left = left_by_whole(usable(ranks), model, zero, ranks, cfg.models, device, learning, sampling)
    whole = left >= more and not zero.offload_parameters
    kept = "whole on every rank" if whole else "sharded over the ranks"
    return whole, [
        f"reference and reward models: {kept} (whole they take {size(more)} more, of {size(max(0, left))} left)"
    ]
