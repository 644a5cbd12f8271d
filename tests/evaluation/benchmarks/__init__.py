"""Tests of the program benchmark."""
