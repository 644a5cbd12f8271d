"""Probes of what the paper observes in its models: a sense of time, tools, and answers over temperatures (5.1)."""
