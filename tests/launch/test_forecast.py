"""What a plan says of failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.forecast import Failures, drawn_out, job_of, played
from llamatrain.errors import UserError
from llamatrain.interruptions import DAY, daly, expected

FAILURES = Failures(per_node_day=6.5e-3, save_seconds=5, publish_seconds=60, start_seconds=300, queue_seconds=600)


def test_failures_draw_a_run_out_as_the_closed_form_says() -> None:
    fast, slow = (job_of(FAILURES, 1000, hours, 64, 8, 100) for hours in (16_000, 20_000))
    assert (fast.nodes, fast.gpus_per_node, fast.productive_seconds) == (8, 8, pytest.approx(250 * 3600))
    told = list(drawn_out(fast, slow))
    assert f"{expected(fast).seconds / DAY:,.4g} to {expected(slow).seconds / DAY:,.4g} days" in told[0]
    assert told[1].startswith("checkpoints: every 100 steps; ")


def test_daly_takes_the_slow_end_and_one_node_is_one() -> None:
    fast, slow = (job_of(FAILURES, 100_000, hours, 8, 8, 100) for hours in (16_000, 20_000))
    told = list(drawn_out(fast, slow))
    assert " on 1 node, " in told[0]
    steps = daly(5, DAY / 6.5e-3) / (20_000 * 3600 / 8 / 100_000)
    assert told[1].endswith(f"; {steps:,.0f} would cost the least time at the slowest (Daly 2006)")


def test_a_run_that_never_ends_is_refused() -> None:
    job = job_of(Failures(90.0, 5, 60, 300, 600), 1000, 16_000, 64, 8, 500)
    with pytest.raises(UserError, match=r"simulate=true: .* do not end"):
        list(played(job, 0, Path("never.svg"), ""))
