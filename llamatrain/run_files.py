"""What a run's own files hold, for whoever reads them: status.json, metrics.jsonl, incidents.jsonl. Imports no torch."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

STATUS, METRICS, INCIDENTS, SAMPLES = "status.json", "metrics.jsonl", "incidents.jsonl", "samples.jsonl"
BEATS, HANGS = ".beats", "hangs"  # where the ranks stand, and what was found where they hung (`llamatrain.watch`)
STAGE = "stage.json"  # of a stage of a pipeline: what it was made from (`launch.record`)
POWER = ".power"  # what each node's devices took (`llamatrain.power`)


class Status(TypedDict, total=False):
    """What status.json says of the run."""

    state: str  # running, done, stopped, failed; of a stage of a pipeline also waiting
    program: str
    step: int
    total: int  # steps of the whole run, where it has any
    reason: str
    started: float
    updated: float
    seconds: float  # over all attempts
    restarts: int  # how often it was started again before it was done
    repeated: int  # steps that it took again after these, over all attempts
    ranks: int
    wandb_id: str
    made_from: dict[str, Any]  # the fingerprints of what it reads
    environment: dict[str, Any]
    kernels: dict[str, str]  # product -> library, MKL or oneDNN
    measured: dict[
        str, float
    ]  # of this attempt, rank 0's: seconds of its checkpoints (saver.py), bytes of memory at most
    power: dict[str, Any]  # what the devices of all nodes took, over all attempts, where the machines count it


class Made(TypedDict):
    """What stage.json says of what making the stage took, over all attempts."""

    seconds: float
    ranks: int
    cores: int
    gpus: int


class Logged(TypedDict):
    """What a line of metrics.jsonl has beside the step's numbers."""

    step: int


class Incident(TypedDict):
    """What a line of incidents.jsonl must have: a loss spike (`llamatrain.spikes`), or what a guard of PPO flagged."""

    incident: int
    step: int
    first_step: int
    back_to: int
    threshold: float | None
    norm_before: NotRequired[float]
    samples: NotRequired[list[Passed]]
    guard: NotRequired[str]
    rolled_back: NotRequired[bool]


class Passed(TypedDict):
    """A sample that is skipped."""

    sample: int
    source: str
