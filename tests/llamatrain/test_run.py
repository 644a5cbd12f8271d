"""The run folder: status, metrics without gaps or doubles, signals, checkpoints that survive what happens."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sys
import time
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamatrain import checkpoint, distributed, hf_folder, manifest, saving
from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.fit import LossFn, fit
from llamatrain.incidents import checkpoint_before
from llamatrain.keys import SPEED
from llamatrain.losses import Batch, language_model_loss
from llamatrain.metrics import Metrics
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.run import Run
from llamatrain.settings import OptimConfig, RunConfig, WandbConfig, ZeroConfig
from llamatrain.stopping import Stopped
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint

STEPS = 8
SETTINGS = {"run": {"seed": 0}}  # what `train` has, as far as a resumed run must keep it
OPTIM = OptimConfig(1e-2, [0.9, 0.95], 1e-5, 0.1, 1.0, "cosine", 2, 0.0, 0.1)
ZERO = ZeroConfig(stage=0, dtype="float32", offload_optimizer=False, offload_parameters=False)

INCIDENT: dict[str, Any] = {
    "incident": 1,
    "step": 4,
    "first_step": 4,
    "back_to": 3,
    "threshold": None,
    "norm_before": 1.0,
    "samples": [{"sample": 7, "source": "x"}],
}


class Toy:
    """Eight rows a step, a function of the step alone."""

    def batch_at(self, step: int) -> list[Batch]:
        ids = torch.randint(3, 400, (4, 16), generator=torch.Generator().manual_seed(step))
        ones = torch.ones_like(ids)
        positions = torch.arange(16).expand(4, 16)
        return [
            {
                "input_ids": ids,
                "position_ids": positions,
                "segment_ids": ones,
                "loss_mask": ones.bool(),
                "weight": torch.tensor(60.0),
            }
        ]


def run_config(folder: Path, **changes: Any) -> RunConfig:
    wandb = WandbConfig(mode="disabled", project="test", entity=None, group=None, tags=[])
    values: dict[str, Any] = {
        "name": "job",
        "dir": str(folder),
        "kernels": "mkl",
        "seed": 0,
        "resume": "auto",
        "save_every": 3,
        "keep": 2,
        "eval_every": 4,
        "log_every": 1,
        "progress": False,
        "verbose": False,
        "hang_minutes": 0,
        "preflight": False,
        "wandb": wandb,
    }
    return RunConfig(**{**values, **changes})


def interrupt(step: int) -> None:
    if step == 4:
        os.kill(os.getpid(), signal.SIGTERM)


def loss_in(during: Callable[[int], None] | None) -> LossFn:
    """Return a loss that does something else in each step, whose number from 0 it tells."""

    def loss(engine: Engine, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if during is not None:
            during(engine.steps_done)
        return language_model_loss(engine, batch)

    return loss


def train(folder: Path, model: ModelConfig, tokenizer: Tokenizer, batches: Toy | None = None, **changes: Any) -> Engine:
    data, fixed = changes.pop("data", {"train": "abc"}), changes.pop("fixed", {})
    program, parents = changes.pop("program", "test"), changes.pop("parents", {})
    during, config = changes.pop("during", None), run_config(folder, **changes)
    with Run(config, program, {"run": asdict(config), **fixed}, parents, data, tuple(fixed)) as run:
        engine = Engine(Transformer(model, seed=0), OPTIM, ZERO, STEPS)
        fit(engine, batches or Toy(), loss_in(during), run, STEPS, tokenizer, lambda: {"eval/loss": 1.0})
    return engine


def test_a_run_ends_with_what_comes_next_and_says_what_it_was_made_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> str:
        with Run(run_config(tmp_path, progress=True), "sft", {}, then="chat checkpoint={made}") as run:
            run.log(1, {"train/loss": 3.0, "eval/loss": 2.0})
        return capsys.readouterr().err

    job = tmp_path / "job"
    assert run() == f"held-out loss 2.000 · {job} · next: llamatrain chat checkpoint={job}\n"
    made_with = json.loads((job / "status.json").read_text())["environment"]
    assert made_with["torch"] == torch.__version__ and made_with["cores"] >= 1
    (job / "stage.json").touch()  # a pipeline's stage: the pipeline tells its result
    assert run() == ""


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "job" / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "job" / "final" / "model.safetensors").read_bytes()


def test_signal_saves_and_the_resumed_run_ends_equal(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    train(tmp_path / "whole", model_config, tokenizer)
    with pytest.raises(Stopped, match="SIGTERM at step 5"):
        train(tmp_path / "cut", model_config, tokenizer, during=interrupt)
    status = json.loads((tmp_path / "cut" / "job" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("stopped", 5) and "SIGTERM" in status["reason"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # handlers are put back
    with (tmp_path / "cut" / "job" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/loss": 9.9}\n{"step": 7, "tra')  # what a kill after the checkpoint leaves
    train(tmp_path / "cut", model_config, tokenizer, resume="required")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    rows = metrics(tmp_path / "cut")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert [row["train/loss"] for row in rows] == [row["train/loss"] for row in metrics(tmp_path / "whole")]
    assert [row["step"] for row in rows if "eval/loss" in row] == [4, 8]
    status = json.loads((tmp_path / "cut" / "job" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("done", STEPS)
    kept = sorted(p.name for p in (tmp_path / "cut" / "job" / "checkpoints").iterdir())
    assert kept == ["step_00000006", "step_00000008"]


def test_a_checkpoint_is_a_whole_folder(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    engine = train(tmp_path, model_config, tokenizer)
    final = tmp_path / "job" / "final"
    manifest.verify(final.resolve())
    lineage = json.loads((final / "llamatrain.json").read_text())
    assert lineage["program"] == "test" and lineage["step"] == STEPS and lineage["data"] == {"train": "abc"}
    model = hf_folder.load_model(checkpoint.resolve(tmp_path / "job"))
    for name, weight in engine.state.parameters_by_name():
        assert torch.equal(model.get_parameter(name), weight)
    assert hf_folder.load_tokenizer(tmp_path / "job").encode("Anna") == tokenizer.encode("Anna")
    assert not list((tmp_path / "job").rglob("*.pt")) and not list((tmp_path / "job").rglob("*.bin"))


def test_damage_stops_and_names_the_last_good_one(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    train(tmp_path, model_config, tokenizer)
    newest = tmp_path / "job" / "checkpoints" / "step_00000008"
    older = newest.with_name("step_00000006")
    (newest.with_name("step_00000009.tmp")).mkdir()  # a half-written folder is ignored
    file = newest / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"model.safetensors was altered.*last good one is {older}"):
        train(tmp_path, model_config, tokenizer)
    with pytest.raises(UserError, match=r"model.safetensors was altered"):
        checkpoint.resolve(newest)
    file.unlink()
    with pytest.raises(UserError, match=r"model.safetensors is missing"):
        checkpoint.resolve(newest)
    with pytest.raises(UserError, match=r"nowhere does not exist; `llamatrain sft` makes it"):
        checkpoint.resolve(tmp_path / "nowhere", made_by="sft")


def test_changed_data_is_refused(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    train(tmp_path, model_config, tokenizer)
    before = contents(tmp_path / "job")
    with pytest.raises(UserError, match=r"the data behind 'train' changed.*run.resume=never"):
        train(tmp_path, model_config, tokenizer, data={"train": "xyz"})
    with pytest.raises(UserError, match=r"run.resume=required"):
        train(tmp_path, model_config, tokenizer, name="other", resume="required")
    after = contents(tmp_path / "job")
    assert {path for path in after if after[path] != before[path]} <= {str(tmp_path / "job" / ".lock")}


def test_another_order_of_samples_is_refused(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    fixed = {"batch": 8, "seq_len": None}
    train(tmp_path, model_config, tokenizer, fixed=fixed)
    train(tmp_path, model_config, tokenizer, fixed=fixed)
    with pytest.raises(UserError, match=r"run\.seed=1: .*step_00000008 was trained with 0.*run\.resume=never"):
        train(tmp_path, model_config, tokenizer, fixed=fixed, seed=1)
    with pytest.raises(UserError, match=r"batch=16: .*step_00000008 was trained with 8"):
        train(tmp_path, model_config, tokenizer, fixed={**fixed, "batch": 16})
    with pytest.raises(UserError, match=r"seq_len=32: .*step_00000008 was trained with None"):
        train(tmp_path, model_config, tokenizer, fixed={**fixed, "seq_len": 32})
    train(tmp_path, model_config, tokenizer, fixed=fixed, seed=1, resume="never")


def test_a_run_of_an_earlier_version_is_left_alone(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    train(tmp_path, model_config, tokenizer)
    config = tmp_path / "job" / "config.yaml"
    config.write_text(f"{config.read_text()}limit: 8\n")
    (tmp_path / "job" / ".lock").unlink()
    before = contents(tmp_path / "job")
    with pytest.raises(UserError, match=r"job was made by an earlier version \(its limit is now called max_prompts\)"):
        train(tmp_path, model_config, tokenizer)
    (tmp_path / "job" / ".lock").unlink()
    assert contents(tmp_path / "job") == before
    train(tmp_path, model_config, tokenizer, resume="never")
    assert len(list(tmp_path.glob("job.replaced-*"))) == 1


class Dashboard:
    """What of wandb is used: it drops a step that is not above its last one. Online a resumed run is told which it was."""

    def __init__(self, mode: str) -> None:
        self.mode, self.rows = mode, list[dict[str, float]]()
        self.last, self.starting_step = -1, 0
        self.axes: dict[str, str | None] = {}
        self.summary: dict[str, float] = {}

    def init(self, **_: Any) -> Dashboard:
        self.starting_step = self.last + 1 if self.mode == "online" else 0
        return self

    def define_metric(self, name: str, step_metric: str | None = None, hidden: bool = False) -> None:
        self.axes[name] = step_metric

    def log(self, row: dict[str, float], step: int) -> None:
        if step > self.last:
            self.last = step
            self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        pass


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_charts_keep_what_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    board = Dashboard(mode)
    module = types.SimpleNamespace(init=board.init, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    wandb = WandbConfig(mode=mode, project="test", entity=None, group=None, tags=[])
    wrong: dict[str, Any] = {**INCIDENT, "first_step": 4, "step": 4, "back_to": 1}
    processes: list[list[int | None]] = [[0, 1, 2, 3, None, 2, 3, 4, 5, 6], [7, 8], [7, 8, 9]]  # None: the incident
    for steps in processes:
        with Run(run_config(tmp_path, wandb=wandb), "test", {}, data={}) as run:
            for step in steps:
                if step is None:
                    run.record(wrong)
                else:
                    run.log(step, {"train/loss": float(step)})
    later = [7, 8, 9] if mode == "online" else [9]  # the second process was killed: the third makes 7 and 8 again
    assert [row["step"] for row in board.rows] == [1, 2, 3, 2, 3, 4, 5, 6, 7, 8, *later]
    assert all(row["train/loss"] == row["step"] for row in board.rows)
    assert board.axes == {"step": None, "*": "step"}
    assert board.summary == {"train/loss": 0.0}  # of step 0


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_dashboard_that_cannot_be_opened_costs_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    modes: list[str] = []
    less = {"online": "offline", "offline": "disabled"}[mode]
    board = Dashboard(less)

    def init(**given: Any) -> Dashboard:
        modes.append(given["mode"])
        if given["mode"] == mode:
            raise RuntimeError("no login\nand much more")
        return board.init()

    module = types.SimpleNamespace(init=init, Settings=lambda **_: None, teardown=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    wandb = WandbConfig(mode=mode, project="test", entity=None, group=None, tags=[])
    with Run(run_config(tmp_path, wandb=wandb), "test", {}, data={}) as run:
        assert modes == [mode, less]  # before the work begins
        run.log(1, {"train/loss": 1.0})
    assert len(board.rows) == 1
    assert capsys.readouterr().err == f"run.wandb.mode={mode}: no login; continuing with run.wandb.mode={less}\n"
    with Run(run_config(tmp_path, wandb=wandb, name="other"), "test", {}, dashboard=False) as run:
        run.log(0, {"count": 1.0})
    assert board.summary == {} and modes == [mode, less]


def test_a_dashboard_of_a_user_without_a_home_lies_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in some containers, where wandb would find no place for what it keeps."""

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    kept = ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
    for name in kept:
        monkeypatch.setenv(name, "")  # so that it is gone after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(Path, "home", none)
    module = types.SimpleNamespace(init=Dashboard("offline").init, Settings=lambda **_: None)
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    wandb = WandbConfig(mode="offline", project="test", entity=None, group=None, tags=[])
    with Run(run_config(tmp_path, wandb=wandb), "test", {}, data={}) as run:
        assert {os.environ[name] for name in kept} == {str(run.folder / "wandb")}


def test_a_dashboard_that_dies_costs_a_line_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = Dashboard("offline")
    asked: list[str] = []

    def log(row: dict[str, float], step: int) -> None:
        asked.append("log")
        raise ConnectionResetError("Connection lost\nand much more")

    def teardown() -> None:
        asked.append("teardown")
        raise ConnectionResetError("Connection lost")

    board.log = log  # type: ignore[method-assign]
    module = types.SimpleNamespace(init=board.init, Settings=lambda **_: None, teardown=teardown)
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    wandb = WandbConfig(mode="offline", project="test", entity=None, group=None, tags=[])
    with Run(run_config(tmp_path, wandb=wandb), "test", {}, data={}) as run:
        for step in (1, 2, 3):
            run.log(step, {"train/loss": 1.0})
    assert asked == ["log", "teardown"]
    assert capsys.readouterr().err == "run.wandb: Connection lost; continuing without a dashboard\n"
    assert json.loads((run.folder / "status.json").read_text())["state"] == "done"
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_line_that_a_kill_cut_is_dropped_without_risk_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job" / "incidents.jsonl"
    path.parent.mkdir()
    whole = json.dumps(INCIDENT) + "\n"
    path.write_text(whole + '{"incid')

    replace = os.replace

    def kill(source: Path, target: Path) -> None:
        if target == path:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            Run(run_config(tmp_path), "test", {}, data={})
    assert path.read_text() == whole + '{"incid'
    assert Run(run_config(tmp_path), "test", {}, data={}).incidents == [INCIDENT]
    assert path.read_text() == whole


@pytest.mark.parametrize("line", ["nonsense", "[1]", "{}", json.dumps({**INCIDENT, "step": "4"}), "\udcff"])
def test_a_damaged_incident_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "job" / "incidents.jsonl"
    path.parent.mkdir()
    path.write_text(f"{json.dumps(INCIDENT)}\n{line}\n", errors="surrogateescape")
    with pytest.raises(UserError, match=r"incidents\.jsonl:2 is damaged: .*another run\.name$"):
        Run(run_config(tmp_path), "test", {}, data={})


@pytest.mark.parametrize("text", ["", "[]", "null", '{"seconds": "long"}', '{"program": 3}', "\udcff"])
def test_a_damaged_status_is_written_anew(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job" / "status.json"
    path.parent.mkdir()
    path.write_text(text, errors="surrogateescape")
    with Run(replace(run_config(tmp_path), progress=True), "test", {}, data={}):
        assert json.loads(path.read_text())["program"] == "test"
    assert f"{path} is damaged" in capsys.readouterr().err


def test_damaged_metrics_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run(run_config(tmp_path), "test", {}, data={}) as run:
        path = run.folder / "metrics.jsonl"
        for step in (1, 2):
            run.log(step, {"loss": step})
    fine = path.read_bytes()
    bad = [b"[1]", b"3", b'{"step": null}', b'{"step": "2"}', b"\xff", b"\0\0\0", b'{"loss": 2.0']
    path.write_bytes(b"".join(b"%s\n" % line for line in bad) + fine + b'{"step": 3, "lo')
    metrics = Metrics(path)
    assert [row["step"] for row in metrics.after(0)] == [1, 2]
    metrics.cut(2)
    metrics.close()
    assert path.read_bytes() == fine
    assert f"{path}:7 is damaged" in capsys.readouterr().err


def test_rank_0_says_which_checkpoint_is_gone_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(run_config(tmp_path), "test", {}, data={})
    (run.checkpoints / "step_00000009").mkdir(parents=True)  # not yet seen by rank 0
    monkeypatch.setattr(distributed, "broadcast_object", lambda mine: [0, 6] if mine == [9] else mine)
    assert checkpoint_before(run.checkpoints, 9) == 6


def test_other_settings_are_told_at_resume(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(rate: float) -> str:
        config = run_config(tmp_path, progress=True)
        settings = {"run": asdict(config), "optim": {"lr": rate, "betas": (0.9, 0.95)}, "steps": 8}
        with Run(config, "test", settings, data={}) as run:
            engine = Engine(Transformer(model_config, seed=0), OPTIM, ZERO, STEPS)
            fit(engine, Toy(), language_model_loss, run, STEPS, tokenizer)
        return capsys.readouterr().err

    run(1e-2)
    text = run(2e-2)
    assert "step_00000008 at step 8" in text and "changed since the checkpoint: optim.lr: 0.01 -> 0.02\n" in text
    assert text.count("changed since") == 1


def test_another_parent_is_refused(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    parents = [save_checkpoint(tmp_path / str(seed), Transformer(model_config, seed), tokenizer) for seed in range(2)]
    train(tmp_path, model_config, tokenizer, parents={"checkpoint": parents[0]})
    train(tmp_path, model_config, tokenizer, parents={"checkpoint": parents[0]})
    with pytest.raises(UserError, match=rf"checkpoint={parents[1]} is not what .*step_00000008 was trained from"):
        train(tmp_path, model_config, tokenizer, parents={"checkpoint": parents[1]})


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_another_programs_folder_is_left_alone(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, resume: str
) -> None:
    train(tmp_path, model_config, tokenizer)
    with pytest.raises(UserError, match=r"run\.name=job: .* is a run of test; choose another run\.name"):
        train(tmp_path, model_config, tokenizer, program="other", resume=resume)
    manifest.verify((tmp_path / "job" / "final").resolve())
    assert json.loads((tmp_path / "job" / "status.json").read_text())["state"] == "done"


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("resume", ["auto", "never", "required"])
def test_a_folder_where_a_run_is_at_work_is_left_alone(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, resume: str
) -> None:
    train(tmp_path, model_config, tokenizer)
    with Run(run_config(tmp_path), "test", SETTINGS, data={}):
        before = contents(tmp_path)
        with pytest.raises(
            UserError, match=rf"another process \(pid {os.getpid()} .*\) is running in {tmp_path / 'job'}:"
        ):
            Run(run_config(tmp_path, resume=resume), "test", SETTINGS, data={})
        assert contents(tmp_path) == before


def test_a_refused_start_lets_go_of_the_folder(tmp_path: Path) -> None:
    with Run(run_config(tmp_path), "test", {}):
        pass
    with pytest.raises(UserError, match="is a run of test"):
        Run(run_config(tmp_path), "other", {})
    with Run(run_config(tmp_path), "test", {}):
        pass


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_removed_under_a_run_stops_it(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, again: bool
) -> None:
    job = tmp_path / "job"

    def remove(step: int) -> None:
        if step == 4:
            job.rename(tmp_path / "moved")
        if step == 4 and again:
            with Run(run_config(tmp_path), "test", {}, data={}) as other:
                other.log(1, {"of/another": 1.0})

    with pytest.raises(UserError, match=rf"{job} was removed, replaced or taken over by another process"):
        train(tmp_path, model_config, tokenizer, during=remove)
    if again:
        assert [set(row) for row in metrics(tmp_path)] == [{"step", "time", "of/another"}]
        assert json.loads((job / "status.json").read_text())["state"] == "done"  # of the other
        assert not (job / "checkpoints").exists()
    else:
        assert not job.exists()


def test_a_run_without_steps_does_not_end_well_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was removed"), Run(run_config(tmp_path), "test", {}):
        shutil.rmtree(tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_what_lies_beside_checkpoints_is_none_and_a_linked_one_is_unlinked(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    train(tmp_path, model_config, tokenizer, Toy(), keep=1)
    folder = tmp_path / "job" / "checkpoints"
    for name in ("step_00000009.bak", "step_old", "step_00000008 (copy)"):
        (folder / name).mkdir()
        (folder / name / "mine").touch()
    (folder / "step_00000007.notes").touch()
    (folder / "step_00000008").rename(tmp_path / "elsewhere")
    (folder / "step_00000008").symlink_to(tmp_path / "elsewhere")
    assert manifest.published(folder) == [folder / "step_00000008"]
    config = run_config(tmp_path, keep=1)
    with Run(config, "test", {"run": asdict(config)}, data={"train": "abc"}) as run:
        engine = Engine(Transformer(model_config, seed=0), OPTIM, ZERO, STEPS + 1)
        step, _ = run.resume({"model": engine})
        assert step == STEPS
        run.save(STEPS + 1, {"model": engine}, tokenizer)
    names = {"step_00000007.notes", "step_00000008 (copy)", "step_00000009", "step_00000009.bak", "step_old"}
    assert {path.name for path in folder.iterdir()} == names
    manifest.verify(tmp_path / "elsewhere")  # what was moved away stays


def test_a_folder_in_the_place_of_final_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "job" / "final").mkdir(parents=True)
    with pytest.raises(
        UserError, match=rf"{tmp_path}/job/final is where the run puts the link.*: move the existing file away"
    ):
        Run(run_config(tmp_path), "test", {})
    assert (tmp_path / "job" / "final").is_dir()


def test_no_space_leaves_the_older_checkpoint_good(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = saving.write_tensors, []

    def full(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > 2:  # the first checkpoint's two files still fit
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    monkeypatch.setattr(saving, "write_tensors", full)
    with pytest.raises(
        UserError,
        match=r"step_00000006 could not be saved: no space left on the disk, need .*B, .*B free; older checkpoints",
    ):
        train(tmp_path, model_config, tokenizer)
    folder = tmp_path / "job" / "checkpoints"
    assert [p.name for p in folder.iterdir()] == ["step_00000003"]
    monkeypatch.undo()
    train(tmp_path, model_config, tokenizer)
    assert json.loads((tmp_path / "job" / "status.json").read_text())["state"] == "done"


def test_a_program_without_steps_stops_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(Stopped, match="SIGTERM; the same command starts it again"),
        Run(run_config(tmp_path), "test", {}),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    status = json.loads((tmp_path / "job" / "status.json").read_text())
    assert (status["state"], signal.getsignal(signal.SIGTERM)) == ("stopped", signal.SIG_DFL)


def test_a_full_disk_is_said_in_plain_words(tmp_path: Path) -> None:
    with (
        pytest.raises(
            UserError, match=r"no space left on the disk of .*job \(.*B free\); its checkpoints are untouched"
        ),
        Run(run_config(tmp_path), "test", {}),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")  # as of a line in metrics.jsonl


def test_a_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "job" / "checkpoints" / "step_00000003.tmp").mkdir(parents=True)
    with pytest.raises(UserError, match=r"run\.resume=required, but .* holds no checkpoint"):
        Run(run_config(tmp_path, resume="required"), "test", {})


@pytest.mark.parametrize("error", [UserError("0.tokens is missing"), OSError(5, "Input/output error")])
def test_what_cannot_be_read_is_said(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, error: Exception
) -> None:
    class Damaged(Toy):
        def batch_at(self, step: int) -> list[Batch]:
            if step == 4:
                raise error
            return super().batch_at(step)

    with pytest.raises(UserError, match=re.escape(str(error))):
        train(tmp_path, model_config, tokenizer, Damaged())


def test_reading_is_part_of_a_steps_time(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    class Slow(Toy):
        def batch_at(self, step: int) -> list[Batch]:
            time.sleep(0.1)
            return super().batch_at(step)

    train(tmp_path, model_config, tokenizer, Slow())
    assert metrics(tmp_path)[0]["train/read_seconds"] >= 0.1  # later ones are read while a step computes
    for row in metrics(tmp_path):
        assert 0 < row["train/read_seconds"] < row["train/step_seconds"]
        assert row["train/tokens_per_second"] * row["train/step_seconds"] == pytest.approx(row["train/tokens"])


def test_learning_rate_too_high_is_a_clear_stop(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    class Broken(Toy):
        def batch_at(self, step: int) -> list[Batch]:
            batch = super().batch_at(step)[0]
            batch["weight"] = torch.tensor(float("nan") if step == 4 else 60.0)
            return [batch]

    with pytest.raises(UserError, match=r"train/loss is nan at step 5"):
        train(tmp_path, model_config, tokenizer, Broken())


def test_a_broken_gradient_is_not_saved(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Engine.step
    monkeypatch.setattr(Engine, "step", lambda self, *_: step(self) if self.steps_done < 5 else float("nan"))
    with pytest.raises(UserError, match=r"train/grad_norm is nan at step 6"):
        train(tmp_path, model_config, tokenizer)
    assert [p.name for p in (tmp_path / "job" / "checkpoints").iterdir()] == ["step_00000003"]


@pytest.mark.parametrize(("key", "value"), [("name", "../x"), ("resume", "yes"), ("save_every", -1), ("log_every", 0)])
def test_bad_run_values(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"run\.{key}="):
        run_config(tmp_path, **{key: value})


@dataclass
class Settings:
    """A program without checkpoints."""

    run: RunConfig
    size: int = 1
    threads: int = field(default=1, metadata=SPEED)
    files: dict[str, str] = field(default_factory=dict)


def finished(tmp_path: Path, settings: dict[str, Any], data: dict[str, str] | None = None, **run: Any) -> Path:
    cfg = Settings(run_config(tmp_path, **run), **settings)
    with Run(cfg.run, "test", cfg, data=data) as opened:
        (opened.folder / "result.txt").write_text(str(cfg))
    return opened.folder


def test_a_finished_result_is_not_replaced_where_a_setting_or_the_data_differ(tmp_path: Path) -> None:
    folder = finished(tmp_path, {"files": {"a": "x", "b": "y"}}, {"prompts": "1"})
    result = (folder / "result.txt").read_text()
    for settings, data, run, words in (
        (
            {"size": 2, "files": {"a": "x", "b": "y"}},
            {"prompts": "1"},
            {},
            "size=2: .* is finished and was made with 1",
        ),
        ({"files": {"a": "x"}}, {"prompts": "1"}, {}, r"files=\{'a': 'x'\}: "),
        ({"files": {"a": "x", "b": "y"}}, {"prompts": "1"}, {"seed": 1}, r"run\.seed=1: "),
        ({"files": {"a": "x", "b": "y"}}, {"prompts": "2"}, {}, "what 'prompts' names changed"),
    ):
        with pytest.raises(UserError, match=words + r".*run\.resume=never or another run\.name"):
            finished(tmp_path, settings, data, **run)
        assert (folder / "result.txt").read_text() == result
        assert json.loads((folder / "status.json").read_text())["state"] == "done"
    finished(tmp_path, {"files": {"a": "x", "b": "y"}, "threads": 2}, {"prompts": "1"})


@pytest.mark.parametrize("content", [None, "size: [1", "- 1", "\0", "size: 1\nsize: 2"])
def test_a_finished_result_whose_settings_cannot_be_read_is_not_replaced(tmp_path: Path, content: str | None) -> None:
    folder = finished(tmp_path, {})
    path = folder / "config.yaml"
    path.unlink()
    if content is not None:
        path.write_text(content)
    result = (folder / "result.txt").read_text()
    with pytest.raises(UserError, match=rf"{folder} is finished, but nothing records what it was made with \({path}"):
        finished(tmp_path, {"size": 2})
    assert (folder / "result.txt").read_text() == result
    finished(tmp_path, {}, resume="never")


def test_never_resuming_keeps_what_was_there_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished(tmp_path, {})
    finished(tmp_path, {}, name="job/inner")
    (folder / "stage.json").touch()
    result = (folder / "result.txt").read_text()
    assert finished(tmp_path, {"size": 2}, resume="never", progress=True) == folder
    (former,) = tmp_path.glob("job.replaced-*")
    assert (former / "result.txt").read_text() == result
    assert {path.name for path in former.iterdir()} == {"config.yaml", "metrics.jsonl", "result.txt", "status.json"}
    assert (folder / "inner" / "result.txt").is_file()
    assert f"is kept in {former}" in capsys.readouterr().err
