"""`llamatrain carbon`: the paper's table to the digit, runs and pipelines from their files, measured power before stated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch import carbon
from llamatrain.run_files import POWER

from .test_listing import make, make_pipeline

Capture = pytest.CaptureFixture[str]
HOURS = "hours={7B: 184320, 13B: 368640, 34B: 1038336, 70B: 1720320}"
PAPER = [HOURS, "watts={34B: 350}", "rates.gpu_watts=400"]


def shown(capsys: Capture, *arguments: str, code: int = 0) -> str:
    """Run the program; return what it prints, or where it fails its error."""
    with pytest.raises(SystemExit) as end:
        carbon.main(arguments)
    assert end.value.code == code
    out, err = capsys.readouterr()
    return err if code else out


def taken(folder: Path, **values: Any) -> None:
    """Note what a run's node counted."""
    (folder / POWER).mkdir(exist_ok=True)
    (folder / POWER / f"{values.pop('host', 'a')}.json").write_text(json.dumps(values))


def test_the_papers_table_to_the_digit(capsys: Capture) -> None:
    lines = shown(capsys, *PAPER, "format=markdown").splitlines()
    assert lines[0] == "|  | GPU hours | power (W) | energy (MWh) | carbon (tCO2eq) |"
    assert lines[2:7] == [
        "| 7B | 184,320 | 400 (stated) | 73.728 | 31.22 |",
        "| 13B | 368,640 | 400 (stated) | 147.456 | 62.44 |",
        "| 34B | 1,038,336 | 350 (stated) | 363.418 | 153.90 |",
        "| 70B | 1,720,320 | 400 (stated) | 688.128 | 291.42 |",
        "| total | 3,311,616 |  | 1,272.730 | 539.00 |",
    ]


def test_it_is_the_same_in_json_in_full_digits(capsys: Capture) -> None:
    found = json.loads(shown(capsys, *PAPER, "format=json"))
    assert found["total"]["tonnes_co2"] == pytest.approx(539.001, abs=1e-3)
    assert [row["name"] for row in found["rows"]] == ["7B", "13B", "34B", "70B"]
    assert found["rates"]["pue"] == 1.1


def test_a_price_adds_a_column(capsys: Capture) -> None:
    lines = shown(capsys, *PAPER, "rates.gpu_hour_price=1.5", "rates.currency=EUR").splitlines()
    assert lines[0].endswith("cost (EUR)") and lines[5].endswith("4,967,424.00")


def test_a_pipeline_stage_by_stage_with_what_it_replaced(tmp_path: Path, capsys: Capture) -> None:
    folder = make_pipeline(tmp_path / "demo", "done", "stopped")
    for name, seconds in (("pretrain", 7200.0), ("sft", 3600.0)):
        make(tmp_path / "x" / name, "done", name, seconds=seconds, environment={"gpu": "", "cores": 4})
        (tmp_path / "x" / name / "status.json").replace(folder / name / "status.json")
    make(folder / "sft.replaced-1a2b3c4d5e6f", "done", "sft", seconds=1800.0, environment={"cores": 4})
    lines = shown(capsys, str(folder)).splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["core", "pretrain", "sft", "replaced", "total"]
    assert lines[1].split() == ["pretrain", "8.000", "5", "(stated)", "40.000", "16.94"]  # Wh and g
    assert lines[4].split() == ["total", "14.000", "70.000", "29.64"]


def test_measured_power_counts_and_all_nodes_of_a_run_together(tmp_path: Path, capsys: Capture) -> None:
    # Two nodes of four GPUs for an hour, whose ranks are eight: 300 and 200 W per GPU.
    one = make(
        tmp_path / "big", "done", "pretrain", seconds=3600.0, ranks=8, environment={"gpu": "NVIDIA A100-SXM4-80GB"}
    )
    taken(one, host="a", device="GPU", joules=300 * 4 * 3600, device_seconds=4 * 3600)
    taken(one, host="b", device="GPU", joules=200 * 4 * 3600, device_seconds=4 * 3600)
    other = make(tmp_path / "plain", "done", "sft", seconds=3600.0, environment={"gpu": "NVIDIA A100-SXM4-80GB"})
    lines = shown(capsys, str(one), str(other)).splitlines()
    assert lines[1].split() == [str(one), "8.000", "250", "2.000", "0.84"]  # kWh and kg
    assert lines[2].split() == [str(other), "1.000", "400", "(stated)", "0.400", "0.16"]
    assert lines[3].split() == ["total", "9.000", "2.400", "1.01"]


def test_gpus_and_cores_are_not_added_up(tmp_path: Path, capsys: Capture) -> None:
    make(tmp_path / "a", "done", "sft", seconds=3600.0, environment={"gpu": "NVIDIA A100-SXM4-80GB"})
    make(tmp_path / "b", "done", "judge", seconds=3600.0, environment={"gpu": "", "cores": 2})
    text = shown(capsys, str(tmp_path))
    assert "1.000 (GPU)" in text and "2.000 (core)" in text
    assert len(text.splitlines()[3].split()) == 3  # total, energy, carbon


@pytest.mark.parametrize(
    ("arguments", "need"),
    [
        (["nowhere"], "folders=nowhere: there is no such folder"),
        ([HOURS], "hours.7B: need the power of a GPU in W, rates.gpu_watts or watts.7B"),
        (["hours={a: 0}"], "hours.a=0.0: need a number above 0"),
        (["watts={a: 400}"], "watts.a: need hours.a, too"),
        (["format=html"], "format=html: need one of table, markdown, json"),
        (["rates.pue=0.5"], "rates.pue=0.5: need 1 or more"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: list[str], need: str, capsys: Capture) -> None:
    text = shown(capsys, *arguments, code=2)
    assert need in text and len(text.splitlines()) == 1


def test_a_gpu_that_nobody_knows_needs_its_power(tmp_path: Path, capsys: Capture) -> None:
    one = make(tmp_path / "new", "done", "sft", seconds=3600.0, environment={"gpu": "Oracle 9000"})
    assert "power of GPU 'Oracle 9000' is not known; need rates.gpu_watts=WATTS" in shown(capsys, str(one), code=2)
    assert "500 (stated)" in shown(capsys, str(one), "rates.gpu_watts=500")
