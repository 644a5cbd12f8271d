"""A small simulated world: documents, dialogues, prompts, annotators and a gold judge, for demonstrations and tests."""
