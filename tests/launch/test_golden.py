"""Every stage of the ready pipelines, held against its recorded configuration: what moves in the code moves no value.

A change that is meant is recorded with `python -m tests.launch.test_golden`; one that changes results moves
former_demo.json along.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.graph import Graph
from launch.graphs.chat import chat
from launch.pipeline import PipelineConfig
from launch.plan import Composed, compose
from launch.programs import schema_of
from launch.record import Record
from llamatrain.config.compose import compose as composed_whole
from llamatrain.keys import flatten

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
PRESETS = ("demo", "fairytales")


def composed(preset: str) -> dict[str, Any]:
    """Return stage -> program and flat configuration, with `@stage/file` references in place."""
    cfg, graph, known = composed_whole("pipeline", PipelineConfig, [f"preset={preset}"]), Graph(), Composed()
    chat(graph, cfg, cfg.data)
    return {
        stage.name: {"program": stage.program, "config": flatten(compose(stage, [preset], None, known))}
        for stage in graph.stages.values()
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_stages_are_configured_as_recorded(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_MODE", "LLAMATRAIN_KERNELS"):  # defaults of run.wandb.mode and run.kernels
        monkeypatch.delenv(variable, raising=False)
    golden = json.loads((GOLDEN / f"{preset}.json").read_text())
    found = composed(preset)
    assert list(found) == list(golden)
    for name, stage in found.items():
        assert stage == golden[name], name


def test_an_upgrade_runs_no_finished_stage_again() -> None:
    """A demo made by an earlier version: every key that came since says what was done without it (`formerly`)."""
    former = json.loads((GOLDEN / "former_demo.json").read_text())
    for name, stage in composed("demo").items():
        if name in former:
            old, new = (Record(stage["program"], of["config"], {}) for of in (former[name], stage))
            schema = schema_of(stage["program"])
            assert new.decisive(schema).changes(old, schema) == [], name


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_no_rank_of_a_ready_pipeline_idles(preset: str, ranks: int) -> None:
    golden = json.loads((GOLDEN / f"{preset}.json").read_text())
    trained = [stage["config"] for stage in golden.values() if "zero.stage" in stage["config"]]
    for values in trained:
        keys = [
            key for key in ("batch_tokens", "batch_sequences", "batch_pairs", "mini_batch_prompts") if key in values
        ]
        rows = values.get("seq_len") or values["model.max_seq_len"] if keys == ["batch_tokens"] else 1
        assert values["micro_batch_size"] is None
        assert values[keys[0]] % (rows * ranks) == 0
    assert len(trained) >= 5


if __name__ == "__main__":
    for preset in PRESETS:
        (GOLDEN / f"{preset}.json").write_text(json.dumps(composed(preset), indent=1) + "\n")
