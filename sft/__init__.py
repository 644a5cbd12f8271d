"""Supervised fine-tuning (paper 3.1)."""

from llamatrain import stopping
from llamatrain.config import asked

# Before its programs import what takes seconds.
stopping.watch(__name__)
asked.answer(__name__)
