"""Spikes: what the detector calls one, and that a run which undoes them ends as one that never had them, byte by byte."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import types
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamatrain import checkpoint, incidents
from llamatrain import fit as fit_module
from llamatrain import manifest as manifest_module
from llamatrain.data.rows import write_rows
from llamatrain.data.sequences import TokenBatches
from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.fit import fit
from llamatrain.losses import Batch, language_model_loss
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.run import Run
from llamatrain.settings import SpikeConfig
from llamatrain.spikes import LOSS, NORM, Detector, Guard, diagnosis
from llamatrain.stopping import Stopped
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import read_jsonl
from tests.conftest import TEXT
from tests.corpora import write_corpus
from tests.llamatrain.test_run import OPTIM, ZERO, run_config

CONFIG = SpikeConfig(True, window=32, min_steps=8, loss_sigmas=6.0, norm_sigmas=20.0, look_ahead=4, max_incidents=3)
SHORT = replace(CONFIG, window=12)  # the loss of a run of some forty steps falls fast
STEPS, ROWS = 42, 4


# --- the detector ------------------------------------------------------------------------------------------------


def detector(losses: list[float], norms: list[float] | None = None) -> Detector:
    made = Detector(CONFIG)
    for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True):
        assert made.check({LOSS: loss, NORM: norm}) is None
    return made


def test_a_falling_and_noisy_curve_is_no_spike() -> None:
    draw = random.Random(0)
    losses = [2 + 5 * math.exp(-step / 40) + draw.gauss(0, 0.05) for step in range(2000)]
    norms = [(0.4 + 2 * math.exp(-step / 30)) * math.exp(draw.gauss(0, 0.15)) for step in range(2000)]
    detector(losses, norms)


def test_a_jump_is_found_by_its_criterion() -> None:
    quiet = [2 + 0.01 * (step % 3) for step in range(20)]
    found = detector(quiet).check({LOSS: 2.3, NORM: 1.0})
    assert found is not None and (found.criterion, found.value, found.steps) == (LOSS, 2.3, 1)
    assert found.threshold == pytest.approx(2.01 + 6 * 0.02 * 2.01)  # the least deviation: 2 % of the median
    found = detector(quiet).check({LOSS: 2.0, NORM: 3.5})
    assert found is not None and found.criterion == NORM and found.threshold == pytest.approx(1 + 20 * 0.1)
    assert detector(quiet).check({LOSS: 2.2, NORM: 2.9}) is None
    assert detector(quiet[:7]).check({LOSS: 9.0, NORM: 9.0}) is None  # not judged yet
    for broken in ({LOSS: math.nan, NORM: 1.0}, {LOSS: 2.0, NORM: math.inf}):
        found = Detector(CONFIG).check(broken)
        assert found is not None and math.isinf(found.threshold)


def test_the_onset_belongs_to_the_spike() -> None:
    rising = detector([2.0] * 20 + [2.15, 2.18])  # above 2 + 3 sigmas, not above 2 + 6
    found = rising.check({LOSS: 2.4, NORM: 1.0})
    assert found is not None and found.steps == 3
    assert rising.check({LOSS: 2.0, NORM: 1.0}) is None  # a step between ends it
    found = rising.check({LOSS: 2.4, NORM: 1.0})
    assert found is not None and found.steps == 1


def test_a_detector_goes_on_from_its_state() -> None:
    whole = detector([2.0] * 20 + [2.15])
    resumed = Detector(CONFIG)
    resumed.load(json.loads(json.dumps(whole.state())))
    assert resumed.check({LOSS: 2.5, NORM: 1.0}) == whole.check({LOSS: 2.5, NORM: 1.0})
    resumed.load({})
    assert resumed.check({LOSS: 9.0, NORM: 1.0}) is None


@pytest.mark.parametrize(
    ("key", "value"), [("min_steps", 33), ("loss_sigmas", 0.0), ("look_ahead", -1), ("max_incidents", -1)]
)
def test_bad_values(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"spikes\.{key}={value}: need"):
        replace(CONFIG, **{key: value})


def incident(first: int, step: int, source: str, **more: Any) -> dict[str, Any]:
    samples = [{"step": step, "sample": step, "source": source, "text": ""}]
    return {"first_step": first, "step": step, "threshold": 3.0, "norm_before": 1.0, "samples": samples, **more}


def test_the_diagnosis_tells_data_from_the_model() -> None:
    far = [incident(100 * i, 100 * i, "crawl" if i < 3 else "books", threshold=None) for i in range(1, 5)]
    text = diagnosis(far, 32)
    assert "4 incidents, at steps 100, 200, 300, 400: 4 with a loss or gradient that is not finite, 0 spikes" in text
    assert "2 of their 4 samples are of the source" in text and "read their texts" in text
    assert "lower optim.lr" in diagnosis([incident(10 * i, 10 * i, "crawl") for i in range(1, 5)], 32)
    assert "lower optim.lr" in diagnosis([incident(100 * i, 100 * i, "c", norm_before=2.0) for i in range(1, 5)], 32)


# --- a run -------------------------------------------------------------------------------------------------------


class Poisoned(TokenBatches):
    """Windows of a corpus, some of them garbage, some of them with a loss that is not a number."""

    garbage: tuple[int, ...] = ()
    broken: tuple[int, ...] = ()

    def _rows_at(self, places: Any) -> Batch:
        batch = super()._rows_at(places)
        draw = torch.Generator().manual_seed(0)
        for row, place in enumerate(places.tolist()):
            if place in self.garbage:
                batch["input_ids"][row, 1:] = torch.randint(3, 400, (self.seq_len - 1,), generator=draw)
        batch["broken"] = torch.tensor([place in self.broken for place in places.tolist()])
        return batch


def loss_fn(model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss, extra = language_model_loss(model, batch)
    return loss * (float("nan") if batch["broken"].any() else 1.0), extra


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_rows(folder / "documents.jsonl", [{"text": line, "source": "test"} for line in TEXT.splitlines()] * 8)
    write_corpus(folder / "train", [str(folder / "documents.jsonl")], tokenizer)
    return folder / "train"


class World:
    """Runs on one corpus, in folders of their own."""

    def __init__(self, folder: Path, corpus: Path, model: ModelConfig, tokenizer: Tokenizer) -> None:
        self.folder, self.corpus, self.model, self.tokenizer = folder, corpus, model, tokenizer

    def train(
        self,
        name: str,
        garbage: tuple[int, ...] = (),
        broken: tuple[int, ...] = (),
        skip: tuple[int, ...] = (),
        spikes: SpikeConfig = SHORT,
        evaluate: Callable[[], dict[str, float]] | None = None,
        **changes: Any,
    ) -> list[dict[str, Any]]:
        """Train (or go on); return metrics.jsonl without times."""
        batches = Poisoned(
            self.corpus, seq_len=32, batch_size=ROWS, micro_batch_size=ROWS, seed=0, tokenizer=self.tokenizer, skip=skip
        )
        batches.garbage, batches.broken = garbage, broken
        config = run_config(self.folder, **{"name": name, "save_every": 5, "eval_every": 0, **changes})
        with Run(config, "test", {"run": asdict(config)}, data={"train": batches.fingerprint}) as run:
            engine = Engine(Transformer(self.model, seed=0), OPTIM, ZERO, STEPS)
            guard = Guard(spikes, batches, self.tokenizer)
            first = None if evaluate is None else (lambda: evaluate() if run.step == 0 else {})
            fit(engine, batches, loss_fn, run, STEPS, self.tokenizer, first, guard, measure_start=evaluate is not None)
        timed = ("time", "train/tokens_per_second", "train/step_seconds", "train/read_seconds")
        return [
            {k: v for k, v in row.items() if k not in timed} for row in read_jsonl(self.run(name) / "metrics.jsonl")
        ]

    def run(self, name: str) -> Path:
        return self.folder / name

    def incidents(self, name: str) -> list[dict[str, Any]]:
        return read_jsonl(self.run(name) / "incidents.jsonl")

    def weights(self, name: str) -> bytes:
        return (self.run(name) / "final" / "model.safetensors").read_bytes()


@pytest.fixture
def world(tmp_path: Path, corpus: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> World:
    return World(tmp_path, corpus, model_config, tokenizer)


def steps(first: int, last: int) -> tuple[int, ...]:
    """Return the samples of steps first to last (counted from 1) where nothing is passed over."""
    return tuple(range((first - 1) * ROWS, last * ROWS))


GARBAGE, BROKEN = steps(33, 33), (steps(8, 8)[1],)


def test_poison_is_found_undone_and_named(world: World) -> None:
    rows = world.train("poisoned", garbage=GARBAGE, broken=(*BROKEN, 39 * ROWS + 2))
    broken, garbage, again = world.incidents("poisoned")
    assert (broken["criterion"], broken["value"], broken["threshold"]) == (LOSS, "nan", None)
    assert (broken["step"], broken["first_step"], broken["back_to"]) == (8, 8, 5)
    assert [row["step"] for row in broken["undone"]] == [6, 7, 8]
    whole = world.train("whole")  # the same up to the broken step
    for undone, row in zip(broken["undone"][:2], whole[5:], strict=False):
        assert (undone["loss"], undone["grad_norm"]) == (row[LOSS], row[NORM])
    assert broken["undone"][2]["loss"] == broken["undone"][2]["grad_norm"] == "nan"
    # Each incident moves later samples up by a batch.
    assert (garbage["step"], garbage["back_to"], garbage["criterion"]) == (32, 30, LOSS)
    assert garbage["value"] > garbage["threshold"]
    assert (again["step"], again["back_to"]) == (38, 35)
    named = [[sample["sample"] for sample in found["samples"]] for found in (broken, garbage)]
    assert named == [list(steps(8, 8)), list(GARBAGE)]
    source = {sample["source"] for sample in broken["samples"]}
    assert source == {"documents"} and all(sample["text"] for sample in broken["samples"])
    # Byte for byte the run whose user knew it all before.
    skip = tuple(sample["sample"] for found in world.incidents("poisoned") for sample in found["samples"])
    known = world.train("known", skip=skip)
    assert world.weights("poisoned") == world.weights("known")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    skipped = [row.pop("train/skipped_samples") for row in rows]
    assert [row.pop("train/skipped_samples") for row in known] == [3 * ROWS] * STEPS
    assert rows == known
    assert (skipped[4], skipped[5], skipped[30], skipped[-1]) == (0, ROWS, 2 * ROWS, 3 * ROWS)
    state = json.loads((world.run("poisoned") / "final" / "trainer" / "state.json").read_text())
    assert state["skip"] == sorted(skip)


def test_what_was_measured_before_the_first_step_stays(world: World) -> None:
    """Back at step 0 it is not measured again, as it is where a run resumes from there."""
    measured = [{"eval/loss": 6.0}]
    rows = world.train("start", broken=(steps(3, 3)[0],), evaluate=measured.pop)
    assert (world.incidents("start")[0]["back_to"], measured) == (0, [])
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert rows[0] == {"step": 0, "eval/loss": 6.0}


def test_a_burst_is_one_incident(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # The step after the rollback's first one: its batch was read ahead before what it was to skip was known.
    burst = (*steps(32, 34), *steps(36, 36))
    poison: dict[str, Any] = {"garbage": burst, "broken": (steps(37, 37)[2],), "spikes": replace(SHORT, look_ahead=6)}
    rows = world.train("burst", **poison)
    (found,) = world.incidents("burst")
    assert (found["first_step"], found["step"], found["back_to"], found["criterion"]) == (32, 32, 30, LOSS)
    bad = (*burst, *steps(37, 37))  # step 35 among them is good
    assert [sample["sample"] for sample in found["samples"]] == list(bad)
    assert [sample["step"] for sample in found["samples"][::ROWS]] == [32, 33, 34, 36, 37]
    assert found["ahead"]["batches"] == 6
    assert [entry["step"] for entry in found["ahead"]["offending"]] == [33, 34, 36, 37]
    *garbage, broken = (entry["loss"] for entry in found["ahead"]["offending"])
    assert min(garbage) > found["threshold"] and broken == "nan"
    known = world.train("known", skip=bad)
    assert world.weights("burst") == world.weights("known")
    assert [row[LOSS] for row in rows] == [row[LOSS] for row in known]

    real, calls = fit_module.evaluate_loss, []

    def interrupted(*arguments: Any) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(fit_module, "evaluate_loss", interrupted)
    with pytest.raises(Stopped, match="SIGTERM at step 31"):
        world.train("cut", **poison)
    assert world.train("cut", **poison) == rows and len(calls) == 3 + 6
    assert world.weights("cut") == world.weights("burst")
    assert world.incidents("cut") == [{**found, "time": world.incidents("cut")[0]["time"]}]


def test_each_step_of_a_burst_is_an_incident_where_nothing_is_looked_ahead_of(world: World) -> None:
    world.train("burst", garbage=steps(31, 33), spikes=replace(SHORT, look_ahead=0))
    assert [(found["step"], len(found["samples"])) for found in world.incidents("burst")] == [(31, ROWS)] * 3


def test_a_checkpoint_inside_the_spike_is_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "check", _slow(Detector.check, at=[24, 25], found=26))
    world.train("late")
    (found,) = world.incidents("late")
    assert (found["first_step"], found["step"], found["back_to"]) == (24, 26, 20)
    assert [sample["sample"] for sample in found["samples"]] == list(steps(24, 26))
    world.train("known", skip=steps(24, 26))
    assert world.weights("late") == world.weights("known")


def test_a_checkpoint_whose_deletion_is_killed_does_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "check", _slow(Detector.check, at=[24, 25], found=26))

    class Killed(BaseException):
        pass

    for doomed in ("step_00000025", "step_00000020"):  # by the incident; by run.keep after it

        def kill(folder: Path, name: str = doomed, **options: Any) -> None:
            if folder.is_dir() and folder.name.startswith(name):
                (folder / "llamatrain.json").unlink()
                raise Killed
            shutil.rmtree(folder, **options)

        with monkeypatch.context() as patch:
            patch.setattr(manifest_module, "shutil", types.SimpleNamespace(rmtree=kill))
            with pytest.raises(Killed):
                world.train("cut")
    world.train("cut")
    assert not list((world.run("cut") / "checkpoints").glob("*.tmp"))
    world.train("known", skip=steps(24, 26))
    assert world.weights("cut") == world.weights("known")


def _slow(check: Any, at: list[int], found: int) -> Any:
    """Return a check that calls the steps `at` raised and step `found`, the first time, a spike."""
    calls = 0

    def slow(self: Detector, metrics: dict[str, float]) -> Any:
        nonlocal calls
        calls += 1
        if calls == found:
            return replace(check(self, {**metrics, LOSS: math.nan}), value=9.0, threshold=5.0)
        before = self.raised
        result = check(self, metrics)
        self.raised = before + 1 if calls in at else 0
        return result

    return slow


PLACES = [
    "spikes.checkpoint_before",
    "run.Run.record",
    "run.drop_stale",
    "run.Run._restore",
    "spikes.rewrite_incidents",
]


@pytest.mark.parametrize("where", [*PLACES, "half a line"])
def test_a_run_killed_in_an_incident_goes_on_exactly(world: World, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    poison = {"garbage": GARBAGE, "broken": BROKEN}
    rows = world.train("whole", **poison)  # type: ignore[arg-type]

    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if where == "half a line":
            record = Run.record

            def half(self: Run, incident: dict[str, Any]) -> None:
                record(self, incident)
                path = self.folder / "incidents.jsonl"
                path.write_text(path.read_text()[:-40])
                raise Killed

            patch.setattr(Run, "record", half)
        else:
            second = where == "run.drop_stale"
            patch.setattr(f"llamatrain.{where}", _second(incidents.drop_stale, kill) if second else kill)
        with pytest.raises(Killed):
            world.train("cut", **poison)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "restore", _second(checkpoint.restore, kill))  # the second incident's
        with pytest.raises(Killed):
            world.train("cut", **poison)  # type: ignore[arg-type]
    assert world.train("cut", **poison) == rows  # type: ignore[arg-type]
    assert world.weights("cut") == world.weights("whole")
    timeless = [[{**found, "time": 0} for found in world.incidents(name)] for name in ("whole", "cut")]
    assert timeless[0] == timeless[1]


def _second(function: Any, instead: Any) -> Any:
    """Return the function, whose second call is another one."""
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return instead() if calls == 2 else function(*args, **kwargs)

    return wrapper


def test_samples_to_pass_over_must_still_be_to_come(world: World) -> None:
    part = {"resume": "auto", "keep": 0}
    world.train("job", **part)
    for path in sorted((world.run("job") / "checkpoints").iterdir())[2:]:  # only step 0 and 5 are left
        shutil.rmtree(path)
    late = 5 * ROWS - 1
    with pytest.raises(UserError, match=rf"sample {late} was trained on before step 5, .*from sample {late + 1}\)"):
        world.train("job", skip=(late, 100), **part)
    world.train("job", skip=(late + 1, 100), **part)
    world.train("known", skip=(late + 1, 100))
    assert world.weights("job") == world.weights("known")


def test_too_many_incidents_end_in_a_diagnosis(world: World) -> None:
    broken = tuple(step * ROWS for step in (8, 13, 18, 23))
    for _ in range(2):  # also when it is started again
        with pytest.raises(UserError, match=r"4 incidents, at steps 9, 13, 17, 21: 4 with .* spikes\.max_incidents=3"):
            world.train("job", broken=broken)
    world.train("job", broken=broken, spikes=replace(SHORT, max_incidents=4))
    assert len(world.incidents("job")) == 4
    world.train("job", resume="never")
    assert not (world.run("job") / "incidents.jsonl").exists()


def test_with_the_detector_off_the_list_still_holds(world: World) -> None:
    off = replace(SHORT, enabled=False)
    with pytest.raises(UserError, match=r"train/loss is nan at step 8"):
        world.train("off", broken=BROKEN, spikes=off)
    assert not (world.run("off") / "incidents.jsonl").exists()
    world.train("on", broken=BROKEN, keep=0)
    for path in sorted((world.run("on") / "checkpoints").iterdir())[2:]:  # only step 0 and 5 are left
        shutil.rmtree(path)
    world.train("on", broken=BROKEN, spikes=off)
    world.train("known", skip=steps(8, 8), spikes=off)
    assert world.weights("on") == world.weights("known")


def test_without_a_checkpoint_from_before_it_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "check", _slow(Detector.check, at=list(range(3, 14)), found=14))
    with pytest.raises(UserError, match=r"starts at step 3, and no checkpoint .* is older: raise run\.keep"):
        world.train("job", keep=2)
    assert not (world.run("job") / "incidents.jsonl").exists()
