"""What comparing models will take. Imports no torch."""

from __future__ import annotations

from llamatrain.given import Given
from llamatrain.planning import Light, Planner, Work

from .config import EvaluateConfig

SEQUENCES = 300  # of held-out text that each model reads where no number is given (an assumption)


def _plan_evaluate(cfg: EvaluateConfig, given: Given) -> Work | Light:
    """The perplexity of each checkpoint, one after the other; the rest reads files."""
    measured = [source.checkpoint for source in cfg.models.values() if source.checkpoint and cfg.corpus]
    if not measured:
        return Light()
    model = given.model(measured[-1])
    read = len(measured) * (cfg.corpus_sequences or SEQUENCES) * model.max_seq_len
    return Work(model, cfg.dtype, tokens=model.max_seq_len, read_rows=cfg.micro_batch_size, read_tokens=read)


PLANS: dict[str, Planner] = {"evaluate": _plan_evaluate}
