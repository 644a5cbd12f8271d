"""Tests of the program `measure`."""
