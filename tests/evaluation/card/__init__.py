"""Tests of evaluation/card/."""
