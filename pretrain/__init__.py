"""Train a tokenizer, turn documents into a corpus of tokens, pretrain a model on it."""

from llamatrain import stopping

stopping.watch(__name__)  # before its programs import what takes seconds
