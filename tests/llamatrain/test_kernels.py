"""Which library multiplies: measured once a machine, rank 0's and the run's own choice from then on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from llamatrain import kernels
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.run import Run
from tests.llamatrain.test_run import run_config


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Say "onednn" to every product that is wider than high instead of measuring; return which were asked, in a cache of its own."""
    asked: list[str] = []

    def fastest(n_out: int, n_in: int) -> str:
        asked.append(kernels.product(n_out, n_in))
        return "onednn" if n_in > n_out else "mkl"

    def fastest_packed(n_out: int, n_in: int) -> str:
        asked.append(kernels.packed(n_out, n_in))
        return "onednn" if n_out > n_in else "mkl"

    monkeypatch.setattr(kernels, "fastest", fastest)
    monkeypatch.setattr(kernels, "fastest_packed", fastest_packed)
    monkeypatch.setattr(kernels, "has_onednn", lambda: True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


def test_what_is_measured_is_kept_for_the_next_run(
    measured: list[str], model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernels.choose("auto", {})
    kernels.measure(model_config)
    first = kernels.used()
    assert len(measured) == len(set(measured)) == len(first) > 5
    dim, hidden = model_config.dim, model_config.hidden_dim
    assert kernels.onednn(dim, hidden, 256) and not kernels.onednn(hidden, dim, 256)
    assert not kernels.onednn(dim, hidden, 64)  # few tokens
    assert not kernels.onednn(7, 9, 256)  # what was not measured
    assert kernels.packs(2 * hidden, dim, kernels.FEW) and not kernels.packs(2 * hidden, dim, kernels.FEW - 1)
    assert not kernels.packs(dim, hidden, 64) and not kernels.packs(7, 9, 64)
    measured.clear()
    kernels.choose("auto", {})
    kernels.measure(model_config)
    assert kernels.used() == first and not measured
    wider = dataclasses.replace(model_config, hidden_dim=2 * hidden)
    kernels.measure(wider)
    assert 0 < len(measured) < len(first)  # only what is new
    measured.clear()
    machine = kernels._machine()
    monkeypatch.setattr(kernels, "_machine", lambda: {**machine, "torch": "another"})
    kernels.choose("auto", {})
    kernels.measure(model_config)
    assert len(measured) == len(first)
    files = list((tmp_path / "cache" / "llamatrain").glob("kernels-*.json"))
    assert len(files) == 2
    for file in files:
        file.write_text("[1")
    measured.clear()
    kernels.choose("auto", {})
    kernels.measure(model_config)
    assert len(measured) == len(first)


@pytest.mark.parametrize("home", ["none", "a file"])
def test_without_a_home_each_run_measures(
    home: str, measured: list[str], model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").touch()
    monkeypatch.setattr(Path, "home", none if home == "none" else lambda: tmp_path / "file")
    monkeypatch.delenv("XDG_CACHE_HOME")
    for _ in range(2):
        measured.clear()
        kernels.choose("auto", {})
        kernels.measure(model_config)
        assert measured and kernels.used().keys() == set(measured)


def test_a_choice_measures_nothing(measured: list[str], model_config: ModelConfig) -> None:
    for choice in ("mkl", "onednn"):
        kernels.choose(choice, {"1x1": "onednn"})
        kernels.measure(model_config)
        assert kernels.onednn(1, 1, 1000) is (choice == "onednn")
        assert kernels.used() == {"all": choice} and not measured


def test_a_resumed_run_keeps_its_choice(
    measured: list[str], model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the cache is gone and a measurement would say otherwise."""
    config = run_config(tmp_path, kernels="auto")
    with Run(config, "pretrain", {}, data={}):
        kernels.measure(model_config)
        before = kernels.used()
    assert json.loads((tmp_path / "job" / "status.json").read_text())["kernels"] == before
    saved = tmp_path / "job" / "checkpoints" / "step_00000001"
    saved.mkdir(parents=True)
    (saved / "MANIFEST.json").write_text("{}")
    shutil.rmtree(tmp_path / "cache")
    measured.clear()
    with Run(config, "pretrain", {}, data={}):
        kernels.measure(model_config)
        assert kernels.used() == before and not measured
    with Run(run_config(tmp_path, kernels="mkl"), "pretrain", {}, data={}):
        assert kernels.used() == {"all": "mkl"}


def test_an_unknown_choice_and_a_library_that_is_not_there_are_refused(
    monkeypatch: pytest.MonkeyPatch, model_config: ModelConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"run\.kernels=fast: need one of auto, mkl, onednn"):
        run_config(tmp_path, kernels="fast")
    monkeypatch.setattr(kernels, "has_onednn", lambda: False)
    kernels.choose("onednn", {})
    with pytest.raises(UserError, match=r"run\.kernels=onednn: this torch was built without oneDNN"):
        kernels.measure(model_config)


def test_on_a_gpu_a_choice_is_said_to_mean_nothing(
    monkeypatch: pytest.MonkeyPatch, model_config: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels.distributed, "device", lambda: torch.device("cuda"))
    for choice, said in (("auto", ""), ("onednn", "run.kernels=onednn has no effect here: it is for CPUs\n")):
        kernels.choose(choice, {})
        kernels.measure(model_config)
        assert capsys.readouterr().err == said


@pytest.mark.skipif(not kernels.has_onednn(), reason="this torch was built without oneDNN")
@pytest.mark.parametrize("shape", [(24, 16), (16, 24)])
def test_a_measurement_names_one_of_the_two(shape: tuple[int, int]) -> None:
    for measured in (kernels.fastest, kernels.fastest_packed):
        assert measured(*shape, gain=1e9) == "mkl"
        assert measured(*shape, gain=0.0) == "onednn"
