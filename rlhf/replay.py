"""Pretraining text beside PPO: a term of the policy's loss that keeps it from forgetting (InstructGPT's PPO-ptx)."""

from __future__ import annotations

from pathlib import Path

from llamatrain import distributed
from llamatrain.data.sequences import TokenBatches
from llamatrain.engine.learning import Engine
from llamatrain.losses import language_model_loss
from llamatrain.prefetch import on_device
from llamatrain.tokenizer import Tokenizer

from .ppo_config import PPOConfig


class Replay:
    """Sequences of a corpus, so many per update of the policy: a function of the update's number, as all orders are."""

    def __init__(self, cfg: PPOConfig, corpus: str, tokenizer: Tokenizer, context: int) -> None:
        """Open the corpus; UserError where it was made with another tokenizer or holds no sequence."""
        self.coef = cfg.replay_coef
        self.batches = TokenBatches(
            Path(corpus) / "train",
            seq_len=context,
            batch_size=cfg.replay_sequences,
            micro_batch_size=1,  # beside the logits of a micro-batch of responses there is room for one sequence's
            seed=cfg.run.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            tokenizer=tokenizer,
        )

    def accumulate(self, policy: Engine) -> float:
        """Accumulate the gradients for the policy's next update; return the mean loss per token, on all ranks alike."""
        batches = self.batches.batch_at(policy.steps_done)
        # Of all ranks' tokens, as every loss.
        weight = distributed.all_reduce_sum(sum(float(batch["weight"]) for batch in batches))
        total = 0.0
        for batch in batches:
            loss, _ = language_model_loss(policy, on_device(batch, policy.device))
            policy.backward(self.coef * loss / weight)
            total += float(loss.detach())
        return distributed.all_reduce_sum(total) / weight
