"""Tests of launch/estimate/."""
