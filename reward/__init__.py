"""Preference data, reward models and their evaluation (paper 3.2)."""
