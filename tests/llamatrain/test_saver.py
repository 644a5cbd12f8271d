"""Checkpoints written behind: training goes on, and whatever needs one waits for it; where memory is short, training waits."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llamatrain import manifest, memory, saver
from llamatrain.errors import DiskError, UserError
from llamatrain.losses import Batch
from llamatrain.model.config import ModelConfig
from llamatrain.saving import Saving
from llamatrain.stopping import Stopped
from llamatrain.tokenizer import Tokenizer

from .test_run import STEPS, Toy, interrupt, metrics, train, weights


def steps_in(folder: Path) -> list[int]:
    return [manifest.step_of(path) for path in manifest.published(folder / "job" / "checkpoints")]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every checkpoint take a while."""
    write = Saving.write

    def late(self: Saving, group: Any = None) -> None:
        time.sleep(0.3)
        write(self, group)

    monkeypatch.setattr(Saving, "write", late)


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "waits", model_config, tokenizer, save_every=0)
    write, further, found = Saving.write, threading.Event(), list[bool]()

    class Watched(Toy):
        def batch_at(self, step: int) -> list[Batch]:
            if step == 5:  # read while the second step after the checkpoint of step 3 computes
                further.set()
            return super().batch_at(step)

    def held(self: Saving, group: Any = None) -> None:
        found.append(further.wait(60))
        write(self, group)

    monkeypatch.setattr(Saving, "write", held)
    train(tmp_path, model_config, tokenizer, Watched(), keep=0)
    assert found == [True, True, True]
    assert steps_in(tmp_path) == [3, 6, 8]
    assert weights(tmp_path) == weights(tmp_path / "waits")
    measured = json.loads((tmp_path / "job" / "status.json").read_text())["measured"]
    # It stands still for less than it takes to publish, and holds more than the weights.
    assert 0 < measured["save_seconds"] < measured["publish_seconds"]
    assert measured["memory_bytes"] > len(weights(tmp_path))
    # It is the state of its step, not of when it was written.
    for step in (6, 8):
        monkeypatch.undo()
        manifest.delete(tmp_path / "job" / "checkpoints" / f"step_{steps_in(tmp_path)[-1]:08d}")
        train(tmp_path, model_config, tokenizer, keep=0, save_every=step, resume="required")
        assert weights(tmp_path) == weights(tmp_path / "waits")


@pytest.mark.usefixtures("slow")
def test_the_end_a_signal_and_an_error_wait_for_it(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    class Broken(Toy):
        def batch_at(self, step: int) -> list[Batch]:
            if step == 3:  # as the checkpoint of step 3 begins to be written
                raise UserError("row 24 is missing")
            return super().batch_at(step)

    with pytest.raises(UserError, match="row 24 is missing"):
        train(tmp_path, model_config, tokenizer, Broken())
    assert steps_in(tmp_path) == [3]
    with pytest.raises(Stopped, match="SIGTERM at step 5"):
        train(tmp_path, model_config, tokenizer, during=interrupt)
    assert steps_in(tmp_path) == [3, 5]
    train(tmp_path, model_config, tokenizer)
    assert steps_in(tmp_path) == [6, STEPS]
    assert not list((tmp_path / "job" / "checkpoints").glob("*.tmp"))


def test_a_write_that_fails_ends_the_run_at_a_steps_end(
    tmp_path: Path,
    model_config: ModelConfig,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = threading.Event()

    def full(self: Saving, group: Any = None) -> None:
        failed.set()
        raise DiskError("no space left on the disk")

    class Until(Toy):
        def batch_at(self, step: int) -> list[Batch]:
            if step == 4:
                failed.wait(60)
                time.sleep(0.1)
            return super().batch_at(step)

    monkeypatch.setattr(Saving, "write", full)
    with pytest.raises(DiskError, match="no space left"):
        train(tmp_path, model_config, tokenizer, Until())
    assert metrics(tmp_path)[-1]["step"] in (4, 5)  # the checkpoint after it would be that of step 6
    assert json.loads((tmp_path / "job" / "status.json").read_text())["state"] == "failed"

    class Broken(Toy):
        def batch_at(self, step: int) -> list[Batch]:
            if step == 3:
                raise UserError("row 24 is missing")
            return super().batch_at(step)

    with pytest.raises(UserError, match="row 24 is missing"):  # the first of two mistakes; the other is told as well
        train(tmp_path, model_config, tokenizer, Broken(), name="both")
    assert "error: no space left on the disk" in capsys.readouterr().err


def test_training_waits_where_the_hosts_memory_is_short(
    tmp_path: Path,
    model_config: ModelConfig,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(tmp_path / "behind", model_config, tokenizer, progress=True)
    assert "checkpoint" not in capsys.readouterr().err  # nothing to say where training goes on
    monkeypatch.setattr(saver, "free_memory", lambda: 100_000)
    monkeypatch.setattr(Saving, "snapshot", lambda _: 1 / 0)
    train(tmp_path / "waits", model_config, tokenizer, progress=True)
    told = capsys.readouterr().err
    assert told.count("training waits for checkpoints: to copy the state takes ") == 1
    assert " of host memory, 100 kB are free on " in told
    for file in ("model.safetensors", "MANIFEST.json"):
        behind, waits = (tmp_path / name / "job" / "final" / file for name in ("behind", "waits"))
        same = behind.read_bytes() == waits.read_bytes()
        assert same or file == "MANIFEST.json"  # llamatrain.json names the run's folder
    trainer = [(tmp_path / name / "job" / "final" / "trainer") for name in ("behind", "waits")]
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in trainer]
    assert files[0] == files[1]


def test_free_memory_is_what_a_container_may_yet_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.free_memory()
    assert 0 < whole < memory.machine_memory()
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 300000\n")
    monkeypatch.setattr(memory, "_groups", lambda: [tmp_path])
    assert memory.free_memory() == 400_000
