"""What a plan says of energy, carbon, money and failures."""

from __future__ import annotations

import pytest

from launch.estimate import main
from launch.forecast import Failures, costs, drawn_out, job_of, played
from llamatrain.energy import Rates
from llamatrain.errors import UserError
from llamatrain.interruptions import DAY, expected

PAPER = Rates(pue=1.1, carbon_intensity=0.385, gpu_watts=400.0, core_watts=5.0, gpu_hour_price=None, currency="USD")
FAILURES = Failures(per_node_day=6.5e-3, save_seconds=5, publish_seconds=60, start_seconds=300, queue_seconds=600)


def test_the_papers_hours_cost_what_the_paper_says() -> None:
    """70B: 1,720,320 GPU hours, 291.42 tCO2eq (2.2.1, table 2)."""
    (line,) = costs(PAPER, "A100", 1_720_320, 1_720_320)
    assert "688.1 to 688.1 MWh at 400 W" in line and "291.4 to 291.4 tCO2eq" in line


def test_a_gpu_of_unknown_power_is_refused_with_the_key() -> None:
    unknown = Rates(1.1, 0.385, None, 5.0, 2.0, "EUR")
    with pytest.raises(UserError, match=r"gpu=nothing: its power is not known, need rates\.gpu_watts"):
        list(costs(unknown, "nothing", 1, 2))
    assert list(costs(unknown, "A100", 10, 20))[1] == "price: 20 to 40 EUR at 2 per GPU hour"


def test_failures_draw_a_run_out_as_the_closed_form_says() -> None:
    fast, slow = (job_of(FAILURES, 1000, hours, 64, 8, 100) for hours in (16_000, 20_000))
    assert (fast.nodes, fast.gpus_per_node, fast.productive_seconds) == (8, 8, pytest.approx(250 * 3600))
    told = list(drawn_out(fast, slow))
    assert f"{expected(fast).seconds / DAY:,.4g} to {expected(slow).seconds / DAY:,.4g} days" in told[0]
    assert told[1].startswith("checkpoints: every 100 steps; ")


def test_a_run_that_never_ends_is_refused() -> None:
    job = job_of(Failures(90.0, 5, 60, 300, 600), 1000, 16_000, 64, 8, 500)
    with pytest.raises(UserError, match=r"simulate=true: .* do not end"):
        list(played(job, seed=0))


def test_a_plan_plays_pretraining_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["preset=llama2_7b", "gpus=64", "programs=[pretrain]", "simulate=true"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "tCO2eq" in said and "10,000 trials on 8 nodes" in said and "lost GPU hours" in said
