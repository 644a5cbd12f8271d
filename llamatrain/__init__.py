"""llamatrain: from raw text to a helpful and safe chat model. What every stage shares; knows no stage."""

__version__ = "0.1.0"
