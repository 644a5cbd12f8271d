"""Energy and carbon of a run: device hours x power x PUE x carbon intensity (paper 2.2.1, Table 2). Pure; no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal

from .keys import KEEPS, above, check_values, least

# What a GPU may draw, in watts, by words of its name (NVIDIA's data sheets); the first that is found counts.
GPU_WATTS = {
    "A100-PCIE": 250,
    "A100 80GB PCIe": 300,
    "A100": 400,  # SXM4, as the paper's
    "H100 PCIe": 350,
    "H100 NVL": 400,
    "H100": 700,
    "H200 NVL": 600,
    "H200": 700,
    "B200": 1000,
    "V100-PCIE": 250,
    "V100": 300,
    "L40S": 350,
    "A40": 300,
    "RTX 3090": 350,
    "RTX 4090": 450,
}
MASSES = (("t", 1.0), ("kg", 1e3), ("g", 1e6))  # of CO2 equivalents, per tonne
ENERGIES = (("MWh", 1e-3), ("kWh", 1.0), ("Wh", 1e3))  # per kWh


@dataclass
class Rates:
    """What an hour of a device takes and costs; configs/rates/ says what each key means, and where its value is from."""

    pue: float = field(metadata=least(1) | KEEPS)
    carbon_intensity: float = field(metadata=least(0) | KEEPS)
    gpu_watts: float | None = field(metadata=above(0) | KEEPS)
    core_watts: float = field(metadata=above(0) | KEEPS)
    gpu_hour_price: float | None = field(metadata=least(0) | KEEPS)
    currency: str = field(metadata=KEEPS)

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self, "rates.")


@dataclass(frozen=True)
class Use:
    """So many hours of devices, each drawing so many watts on average."""

    name: str
    device: str  # GPU or core
    hours: float
    watts: float  # per device
    measured: bool = False  # by the machine's own counters; otherwise stated

    @property
    def kwh(self) -> float:
        """The energy that the devices took, in kWh."""
        return energy_kwh(self.hours, self.watts)


def gpu_watts(name: str) -> float | None:
    """Return what a GPU of this name may draw; None where it is not known."""
    return next((watts for part, watts in GPU_WATTS.items() if re.search(rf"\b{part}\b", name, re.I)), None)


def energy_kwh(device_hours: float, watts: float) -> float:
    """Return the energy of devices, in kWh; what cools and feeds them comes with the PUE."""
    return device_hours * watts / 1000


def tonnes_co2(kwh: float, pue: float, carbon_intensity: float) -> float:
    """Return tonnes of CO2 equivalents: kWh x PUE x kg per kWh / 1000."""
    return kwh * pue * carbon_intensity / 1000


def cost(gpu_hours: float, price: float) -> float:
    """Return what GPU hours cost at a price per hour."""
    return gpu_hours * price


def truncated(value: float, digits: int = 2) -> str:
    """Write a number with so many decimals, the rest cut off as in the paper's Table 2: 62.4476 is 62.44."""
    # To fifteen digits first, those that a float holds: 0.29 * 100 is 28.999999999999996 and means 29.
    exact = Decimal(f"{value:.15g}")
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_DOWN):,f}"


def unit_for(most: float, units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """Return the first of some units (MASSES, ENERGIES) in which the largest amount is 1 or more, and how many make one."""
    return next((unit for unit in units if most * unit[1] >= 1), units[-1])


def units(found: Sequence[Use], rates: Rates) -> tuple[tuple[str, float], tuple[str, float]]:
    """Return the units that suit the total: of energy with how many make a kWh, and of mass with how many make a tonne."""
    kwh = sum(use.kwh for use in found)
    return unit_for(kwh, ENERGIES), unit_for(tonnes_co2(kwh, rates.pue, rates.carbon_intensity), MASSES)


def hours_text(hours: float) -> str:
    """Write hours: whole ones where there are many."""
    return f"{hours:,.0f}" if hours >= 1000 else f"{hours:,.3f}"


def formula(rates: Rates) -> str:
    """Say how carbon follows."""
    return f"hours x power x PUE {rates.pue:g} x {rates.carbon_intensity:g} kgCO2eq per kWh"


# --- as a table --------------------------------------------------------------------------------------------------


def table(found: Sequence[Use], rates: Rates) -> list[list[str]]:
    """Return the cells of the model card's table, its head first and the total last."""
    tonnes = [tonnes_co2(use.kwh, rates.pue, rates.carbon_intensity) for use in found]
    (energy, per_kwh), (mass, per_tonne) = units(found, rates)
    devices = {use.device for use in found}
    priced = rates.gpu_hour_price is not None and "GPU" in devices
    head = ["", f"{next(iter(devices))} hours" if len(devices) == 1 else "hours", "power (W)", f"energy ({energy})"]
    rows = [[*head, f"carbon ({mass}CO2eq)", *([f"cost ({rates.currency})"] if priced else [])]]
    for use, carbon in zip(found, tonnes, strict=True):
        hours = f"{hours_text(use.hours)}{f' ({use.device})' if len(devices) > 1 else ''}"
        power = f"{use.watts:,.4g}{'' if use.measured else ' (stated)'}"
        row = [use.name, hours, power, f"{use.kwh * per_kwh:,.3f}", truncated(carbon * per_tonne)]
        rows.append([*row, *([_price(use, rates)] if priced else [])])
    total = [hours_text(sum(use.hours for use in found)) if len(devices) == 1 else "", ""]
    total += [f"{sum(use.kwh for use in found) * per_kwh:,.3f}", truncated(sum(tonnes) * per_tonne)]
    whole = sum(use.hours for use in found if use.device == "GPU")
    total += [f"{cost(whole, rates.gpu_hour_price):,.2f}"] if priced and rates.gpu_hour_price is not None else []
    return [*rows, ["total", *total]]


def _price(use: Use, rates: Rates) -> str:
    price = rates.gpu_hour_price
    return f"{cost(use.hours, price):,.2f}" if price is not None and use.device == "GPU" else ""
