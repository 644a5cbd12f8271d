"""What a run took: hours of GPUs or cores, and their power, measured where its machines counted it, else as stated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .config.presets import config_folder
from .energy import Rates, Use, gpu_watts
from .power import Power, read_power
from .run_files import STAGE, Made
from .runs import is_number, read_json, read_status
from .yaml_files import read_yaml


@dataclass(frozen=True)
class Spent:
    """What went into a run so far, over all attempts."""

    seconds: float
    gpus: int
    cores: int
    gpu: str  # its name
    power: Power | None

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs."""
        return self.seconds * self.gpus / 3600

    @property
    def core_hours(self) -> float:
        """Hours of cores, where there were no GPUs."""
        return 0.0 if self.gpus else self.seconds * self.cores / 3600

    def use(self, name: str, rates: Rates) -> Use | None:
        """Return the devices' hours with their power, under a name; None where the power of its GPU is not known."""
        device, hours = ("GPU", self.gpu_hours) if self.gpus else ("core", self.core_hours)
        if self.power is not None and self.power.device == device:
            return Use(name, device, hours, self.power.watts, measured=True)
        stated = (rates.gpu_watts or gpu_watts(self.gpu)) if self.gpus else rates.core_watts
        return None if stated is None else Use(name, device, hours, stated)


def spent(folder: Path, running: bool = False, now: float = 0.0) -> Spent:
    """Return what went into a run; of a running one up to `now`."""
    made, status = read_json(folder / STAGE, Made), read_status(folder)
    environment = status.get("environment", {})
    seconds = status.get("seconds", 0.0)
    if running and is_number(status.get("updated")):
        seconds += max(0.0, now - status["updated"])
    name = str(environment.get("gpu") or "")
    if made:
        return Spent(max(seconds, made["seconds"]), made["gpus"], made["cores"], name, read_power(folder))
    cores = environment.get("cores")
    gpus = status.get("ranks", 1) if name else 0
    return Spent(seconds, gpus, cores if isinstance(cores, int) else 1, name, read_power(folder))


def default_rates() -> Rates:
    """Return the rates that count where nobody gave any."""
    return Rates(**read_yaml(config_folder() / "rates" / "default.yaml"))
