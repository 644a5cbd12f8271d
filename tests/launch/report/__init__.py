"""Tests of launch/report/."""
