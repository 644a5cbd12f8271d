"""Tests of the reward models."""
