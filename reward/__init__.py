"""Preference data, reward models and their evaluation (paper 3.2)."""

from llamatrain import stopping
from llamatrain.config import asked

# Before its programs import what takes seconds.
stopping.watch(__name__)
asked.answer(__name__)
