"""Train a tokenizer, turn documents into a corpus of tokens, pretrain a model on it."""

from llamatrain import stopping
from llamatrain.config import asked

# Before its programs import what takes seconds.
stopping.watch(__name__)
asked.answer(__name__)
