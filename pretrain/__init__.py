"""Train a tokenizer, turn documents into a corpus of tokens, pretrain a model on it."""
