"""Tests of rlhf."""
