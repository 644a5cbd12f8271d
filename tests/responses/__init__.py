"""Tests of prompts, responses and their scores."""
