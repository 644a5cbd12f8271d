"""Measures of checkpoints and of what they answer: perplexity, scores, judgements, win rates (paper 3.4)."""
