"""`reward.evaluate` on as many ranks as there are; arguments: folder, overrides."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from llamatrain.config.compose import compose
from reward.config import RewardEvaluateConfig
from reward.evaluate import evaluate
from tests.checkpoints import quiet

if __name__ == "__main__":
    torch.set_num_threads(1)
    evaluate(compose("reward_evaluate", RewardEvaluateConfig, [*quiet(Path(sys.argv[1]), "two"), *sys.argv[2:]]))
