"""Plans of presets: what fits, what would, and the page that shows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from launch.estimate import advice, model_of, work_of
from launch.programs import plans
from llamatrain.planning import smallest_change

A100 = 85e9


def test_the_page_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "planning.py"
    spec = importlib.util.spec_from_file_location("planning_page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run: python benchmarks/planning.py"


@pytest.mark.parametrize("preset", ["llama2_7b", "llama2_34b"])
def test_every_program_that_trains_or_samples_has_a_plan(preset: str) -> None:
    model = model_of(preset)
    for name in plans():
        assert work_of(name, preset, model).most(A100, 8) > 0


def test_whole_models_of_34b_and_70b_do_not_sample_on_80_gb() -> None:
    for preset in ("llama2_34b", "llama2_70b"):
        model = model_of(preset)
        for name in ("sample", "rejection_sampling", "ppo"):
            work = work_of(name, preset, model)
            assert not work.fits(A100, 8)
    assert "need GPUs of" in advice(work_of("ppo", "llama2_70b", model_of("llama2_70b")), A100, 8, 8)


def test_the_smallest_change_is_one_that_fits() -> None:
    work = work_of("pretrain", "llama2_13b", model_of("llama2_13b"))
    assert work.fits(A100, 64)
    assert smallest_change(work, 40e9, 8) is not None
    assert (
        smallest_change(work_of("pretrain", "llama2_70b", model_of("llama2_70b")), A100, 8)
        == "zero.offload_optimizer=true"
    )
