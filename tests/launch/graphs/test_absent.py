"""What a stage lacks that a chain leaves out."""

from __future__ import annotations

import pytest

from launch.graphs.absent import why_absent
from launch.graphs.methods import build
from launch.pipeline import PipelineConfig
from llamatrain.config.compose import compose

TEXT, TALK = "data.documents=[d.jsonl]", "data.dialogues=[t.jsonl]"
PAIRS = "data.preferences.helpfulness and data.preferences.safety"


@pytest.mark.parametrize(
    ("given", "name", "need"),
    [
        ([TEXT], "sft", "data.dialogues"),
        ([TEXT, TALK], "ppo", f"data.prompts and {PAIRS}, or data.prompts and data.ratings"),
        ([TEXT, TALK, "data.prompts=[p.jsonl]"], "v1_rejection_sampling", f"{PAIRS}, or data.ratings"),
        ([TEXT, TALK], "v1_reward_safety", "data.preferences.safety, or data.prompts and data.ratings"),
        ([TEXT, TALK], "compare", "data.prompts and data.ratings"),
        ([TEXT, TALK], "sample_sft", "data.prompts_eval"),
        ([TEXT], "evaluate", "data.prompts_eval, or data.documents_eval"),
        (["data.checkpoint=base"], "corpus", "data.documents"),
        (
            [TEXT, TALK, "data.preferences.safety=[p.jsonl]"],
            "reward",
            "data.preferences.helpfulness, or data.prompts and data.ratings",
        ),
        ([TEXT, TALK, "ppo=false"], "ppo", ""),
        ([TEXT, TALK], "nothing", ""),
    ],
)
def test_the_data_that_a_stage_lacks_are_named(given: list[str], name: str, need: str) -> None:
    cfg = compose("pipeline", PipelineConfig, ["data=mine", *given])
    said = why_absent(build, cfg, cfg.data)(name)
    assert said == (f"'{name}' is left out for lack of data: need {need}" if need else "")
