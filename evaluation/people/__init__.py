"""People: pages on which they rate responses, and what their ratings say (paper 3.2.1, 3.4.2, 4.3, 4.4)."""
