"""The methods by name: which graph a pipeline's key `method` builds."""

from __future__ import annotations

from ..graph import Graph
from .chat import METHODS, Chat, Data, chat
from .safety_scaling import safety_scaling

GRAPHS = dict(zip(METHODS, (chat, safety_scaling), strict=True))


def build(g: Graph, cfg: Chat, data: Data) -> None:
    """Add all stages of the method."""
    GRAPHS[cfg.method](g, cfg, data)
