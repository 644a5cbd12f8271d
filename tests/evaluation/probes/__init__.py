"""Tests of `evaluation.probes`."""
