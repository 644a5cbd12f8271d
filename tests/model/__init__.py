"""Tests of llamatrain.model."""
