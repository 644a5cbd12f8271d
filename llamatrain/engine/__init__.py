"""The one contact with DeepSpeed: learning, norms by kind of tensor, state by parameter name, models for it."""
