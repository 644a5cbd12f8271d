"""Measures of checkpoints and of what they answer: perplexity, scores, judgements, win rates (paper 3.4)."""

from llamatrain import stopping

stopping.watch(__name__)  # before its programs import what takes seconds
