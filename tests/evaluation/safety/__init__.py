"""Tests of `evaluation.safety`."""
