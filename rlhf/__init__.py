"""Reinforcement learning from human feedback: sampling, comparisons, rejection sampling and PPO (paper 3.2.3)."""

from llamatrain import stopping

stopping.watch(__name__)  # before its programs import what takes seconds
