"""A small simulated world: documents, dialogues, prompts, annotators and a gold judge, for demonstrations and tests."""

from llamatrain import stopping

stopping.watch(__name__)  # before its programs import what takes seconds
