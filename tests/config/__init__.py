"""Tests of composing, of what the user is told, and of the command line."""
