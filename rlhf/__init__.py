"""Reinforcement learning from human feedback: sampling, comparisons, rejection sampling and PPO (paper 3.2.3)."""

from llamatrain import stopping
from llamatrain.config import asked

# Before its programs import what takes seconds.
stopping.watch(__name__)
asked.answer(__name__)
