"""The Llama 2 model: a transformer with a language head or a scalar head, and its key-value cache."""
