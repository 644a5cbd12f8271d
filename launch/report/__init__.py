"""The report: one self-contained page about a pipeline, drawn from nothing but its run folders."""
