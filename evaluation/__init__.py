"""Measures of checkpoints and of what they answer: perplexity, scores, judgements, win rates (paper 3.4)."""

from llamatrain import stopping
from llamatrain.config import asked

# Before its programs import what takes seconds.
stopping.watch(__name__)
asked.answer(__name__)
