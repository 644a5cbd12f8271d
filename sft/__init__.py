"""Supervised fine-tuning (paper 3.1)."""

from llamatrain import stopping

stopping.watch(__name__)  # before its programs import what takes seconds
