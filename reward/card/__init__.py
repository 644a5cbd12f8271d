"""The card of a reward model: what held-out pairs tell about it, and what cheap rules would have told."""
