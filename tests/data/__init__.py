"""Tests of llamatrain.data."""
