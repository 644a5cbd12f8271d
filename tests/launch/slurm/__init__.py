"""Tests of jobs of Slurm, without one."""
