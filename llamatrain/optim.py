"""AdamW's settings and the learning rate as a pure function of the step (paper 2.2)."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from .settings import OptimConfig

KINDS = {
    "embed_tokens": "embedding",
    "self_attn": "attention",
    "mlp": "feed_forward",
    "lm_head": "head",
    "score": "head",
}


class AdamW(torch.optim.AdamW):
    """torch's AdamW without its wrappers for torch.compile, which import the compiler: more than a second of a start."""

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Split the parameters into matrices, which decay, and norm weights, which do not (our choice: the paper is silent)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    # Under ZeRO-3 a parameter's own shape is empty; ds_shape keeps the real one.
    matrices = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) >= 2]
    norms = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def kind_of(name: str) -> str:
    """Return the kind of tensor a parameter is: embedding, attention, feed_forward, norm or head."""
    parts = name.split(".")  # whole parts: input_layernorm inside a layer is no attention
    for part, kind in KINDS.items():
        if part in parts:
            return kind
    return "norm"
