"""Holds energy and carbon against the paper's Table 2."""

from __future__ import annotations

import pytest

from llamatrain.energy import MASSES, energy_kwh, gpu_watts, tonnes_co2, truncated, unit_for

# Table 2 of the paper: GPU hours, W per GPU, tCO2eq.
PAPER = {
    "7B": (184_320, 400, "31.22"),
    "13B": (368_640, 400, "62.44"),
    "34B": (1_038_336, 350, "153.90"),
    "70B": (1_720_320, 400, "291.42"),
}


@pytest.mark.parametrize("size", PAPER)
def test_the_papers_carbon_to_the_digit(size: str) -> None:
    hours, watts, printed = PAPER[size]
    assert truncated(tonnes_co2(energy_kwh(hours, watts), 1.1, 0.385)) == printed


def test_the_papers_total_is_that_of_the_unrounded_rows() -> None:
    rows = [tonnes_co2(energy_kwh(hours, watts), 1.1, 0.385) for hours, watts, _ in PAPER.values()]
    assert truncated(sum(rows)) == "539.00"
    assert sum(float(printed) for *_, printed in PAPER.values()) == pytest.approx(538.98)
    assert sum(hours for hours, *_ in PAPER.values()) == 3_311_616


@pytest.mark.parametrize(
    ("value", "text"), [(0.29 * 100, "29.00"), (1.999, "1.99"), (0.0, "0.00"), (1234.5678, "1,234.56"), (1e-7, "0.00")]
)
def test_digits_are_cut_off(value: float, text: str) -> None:
    assert truncated(value) == text


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("NVIDIA A100-SXM4-80GB", 400),
        ("NVIDIA A100 80GB PCIe", 300),
        ("NVIDIA A100-PCIE-40GB", 250),
        ("NVIDIA H100 80GB HBM3", 700),
        ("NVIDIA H200", 700),
        ("NVIDIA A10", None),
        ("", None),
    ],
)
def test_gpus_are_known_by_name(name: str, watts: float | None) -> None:
    assert gpu_watts(name) == watts


def test_the_unit_suits_the_amount() -> None:
    assert [unit_for(tonnes, MASSES)[0] for tonnes in (539, 1, 0.02, 1e-5, 1e-9)] == ["t", "t", "kg", "g", "g"]
