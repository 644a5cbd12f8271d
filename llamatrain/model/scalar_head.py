"""The model with a scalar head: reward model (paper 3.2.2) and PPO's critic.

Names and config.json of Hugging Face's LlamaForSequenceClassification with one label.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Decoder, Init, Linear


class ScalarModel(nn.Module):
    """One score at every position; the score of a response is read at its last token.

    The head is N(0, 1/sqrt(dim + 1)) without bias: the paper does not say, and open reproductions agree on this.
    `model` gives the decoder to put the head on (taken over, not copied); otherwise `seed` initialises one, or None
    leaves it to be loaded.
    """

    def __init__(self, config: ModelConfig, seed: int | None, model: Decoder | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = model if model is not None else Decoder(config, Init(seed, config.init_std, "model"))
        self.score = Linear(config.dim, 1, Init(seed, 1 / math.sqrt(config.dim + 1), "score.weight"))

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """Return float32 scores (B, T), or (N,) at the flattened positions `select`."""
        hidden = self.model(input_ids, position_ids, segment_ids, select=select)
        scores: Tensor = self.score(hidden).squeeze(-1)  # (B, T, 1) to (B, T)
        return scores.float()
