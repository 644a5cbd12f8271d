"""Supervised fine-tuning (paper 3.1)."""
