"""Preference data, reward models and their evaluation (paper 3.2)."""

from llamatrain import stopping

stopping.watch(__name__)  # before its programs import what takes seconds
