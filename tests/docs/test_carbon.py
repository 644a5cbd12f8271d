"""The figures of docs/carbon.md are those that the simulation gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch.estimate.__main__ import main


@pytest.mark.parametrize("gpus", [1024, 2000])
def test_the_simulated_days_and_losses_are_those_on_the_page(
    gpus: int, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "preset=llama2_70b", f"gpus={gpus}", "simulate=true", f"drawing={tmp_path / 'days.svg'}"])
    lines = capsys.readouterr().out.splitlines()
    ends = r"\s+median\s+([\d,.]+)   5 to 95 %: ([\d,.]+) to ([\d,.]+)"
    found = {line[:18].strip(): match.groups() for line in lines if (match := re.search(ends, line))}
    days, failed = found["days"], [f"{float(one):.0f}" for one in found["interruptions"]]
    lost = [f"{round(float(one.replace(',', '')), -3):,.0f}" for one in found["lost GPU hours"]]
    page = " ".join((repository / "docs/carbon.md").read_text(encoding="utf-8").split())
    assert f"{days[0]} days ({days[1]} to {days[2]}" in page
    assert f"{failed[0]} times ({failed[1]} to {failed[2]})" in page
    assert f"{lost[0]} GPU hours ({lost[1]} to {lost[2]})" in page
