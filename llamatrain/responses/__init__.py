"""From prompts to scored responses: sampling in chunks that survive a kill, rollouts, reward scores, models that only read."""
