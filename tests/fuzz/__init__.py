"""Malformed input for every program and every kind of file."""
