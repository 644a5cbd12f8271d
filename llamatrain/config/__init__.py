"""From a command line to a checked dataclass: the only place that imports hydra and omegaconf."""
