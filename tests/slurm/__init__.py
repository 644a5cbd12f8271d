"""Tests on a real Slurm of virtual nodes on this machine (lab.sh)."""
