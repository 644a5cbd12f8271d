"""The arithmetic of a training step: floating-point operations of the model itself, and the share of the peak they are.

Two conventions. `6N`: 6 operations per token for each of all N parameters, embeddings included (2 forward, 4 backward),
as in the paper's GPU hours (2.2.1). `6N + attention`: another 12 * layers * positions * dim per token for queries on
keys and weights on values, of the full square, as if nothing were masked. Recomputed activations are counted by neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from .model.config import ModelConfig


def flops_per_token(parameters: int, model: ModelConfig, seq_len: int, attention: bool) -> float:
    """Return the operations of one training token, forward and backward, with or without those of attention."""
    return 6.0 * parameters + (12.0 * model.n_layers * seq_len * model.dim if attention else 0.0)


@dataclass(frozen=True)
class Utilisation:
    """What a run's speed is of its devices' peak."""

    per_token: float  # operations, 6N
    per_token_attention: float  # 6N + attention
    peak: float  # operations per second of all devices together

    @classmethod
    def of(
        cls, parameters: int, model: ModelConfig, seq_len: int, peak_tflops: float | None, devices: int
    ) -> Utilisation | None:
        """Return it, or None where the peak is not known."""
        if peak_tflops is None:
            return None
        return cls(
            flops_per_token(parameters, model, seq_len, attention=False),
            flops_per_token(parameters, model, seq_len, attention=True),
            peak_tflops * 1e12 * devices,
        )

    def metrics(self, tokens_per_second: float) -> dict[str, float]:
        """Return train/mfu (6N) and train/mfu_attention (6N + attention), between 0 and 1."""
        return {
            "train/mfu": self.per_token * tokens_per_second / self.peak,
            "train/mfu_attention": self.per_token_attention * tokens_per_second / self.peak,
        }
