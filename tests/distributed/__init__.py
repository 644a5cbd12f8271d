"""Checks that need several ranks, or processes that are killed."""
