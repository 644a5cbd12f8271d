"""Reinforcement learning from human feedback: sampling, comparisons, rejection sampling and PPO (paper 3.2.3)."""
