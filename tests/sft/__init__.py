"""Tests of supervised fine-tuning."""
