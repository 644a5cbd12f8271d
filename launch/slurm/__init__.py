"""Programs and pipelines as jobs of Slurm: what a cluster needs, the scripts, and how they are submitted."""
