"""Rows of the project's kinds, adapters to public data sets, packing, and batches addressed by step."""
