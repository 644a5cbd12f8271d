"""A pipeline's dry run says in two lines what it will take here, and a line for each stage that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.estimate.__main__ import pipeline_of
from launch.estimate.brief import brief
from launch.plan import plan_stages


def lines(tmp_path: Path, ranks: int, *arguments: str, to_run: list[str] | None = None) -> list[str]:
    pipeline = pipeline_of([*arguments, f"run.dir={tmp_path}"])
    stages = plan_stages(pipeline.stages, pipeline.graph.awaited, pipeline.place)
    return list(brief(stages, None, ranks, [one.name for one in stages] if to_run is None else to_run))


def test_the_demo_takes_minutes(tmp_path: Path) -> None:
    time, memory = lines(tmp_path, 2, "preset=demo")
    assert time.startswith("about ") and " min on 2 ranks of " in time and "the longest: pretrain " in time
    assert memory.startswith("at most ") and "per rank (ppo)" in memory and "MB of checkpoints stay" in memory
    assert lines(tmp_path, 2, "preset=demo", to_run=["tokenizer"]) == [], "nothing that runs a model is left to run"


@pytest.mark.parametrize(("ranks", "unfit"), [(64, False), (8, True)])
def test_a_large_model_is_planned_for_elsewhere(tmp_path: Path, ranks: int, unfit: bool) -> None:
    told = lines(tmp_path, ranks, "preset=llama2_7b", "pretrain.zero=stage1", "pretrain.micro_batch_size=4")
    assert f"days on {ranks} A100" in told[0] and (len(told) > 2) == unfit
    assert not unfit or told[2].startswith("pretrain does not fit 8 A100: training needs ")
