"""A small simulated world: documents, dialogues, prompts, annotators and a gold judge, for demonstrations and tests."""

from llamatrain import stopping
from llamatrain.config import asked

# Before its programs import what takes seconds.
stopping.watch(__name__)
asked.answer(__name__)
