"""Composition, its strictness, and what the user is told."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from llamatrain import config
from llamatrain.errors import UserError
from llamatrain.settings import OptimConfig, RunConfig

YAML = """\
defaults:
  - run: default
  - optim: sft
  - _self_
run:
  name: example
steps: ???        # updates to take
ratio: 0.5        # a share
names: [a, b]
"""


@dataclass
class Example:
    run: RunConfig
    optim: OptimConfig
    steps: int
    ratio: float
    names: list[str]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of its own beside the real groups."""
    real = config.config_folder()
    for group in ("run", "optim"):
        (tmp_path / group).symlink_to(real / group)
    (tmp_path / "example.yaml").write_text(YAML)
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "quick.yaml").write_text("example: [steps=3, optim.lr=0.25]\n")
    monkeypatch.setattr(config, "config_folder", lambda: tmp_path)
    return tmp_path


def compose(*overrides: str) -> Example:
    return config.compose("example", Example, overrides)


@pytest.mark.usefixtures("example")
def test_values_and_precedence() -> None:
    made = compose("steps=7", "optim.eps=1e-6", "names=[x]")
    assert (made.steps, made.ratio, made.names, made.optim.eps) == (7, 0.5, ["x"], 1e-6)
    assert made.optim.lr == 2e-5 and made.run.name == "example"


@pytest.mark.usefixtures("example")
def test_a_single_value_is_a_list_where_one_is_meant() -> None:
    """A shell like zsh takes brackets for a pattern of its own."""
    made = compose("steps=7", "names=x.jsonl", "run.wandb.tags=one")
    assert (made.names, made.run.wandb.tags) == (["x.jsonl"], ["one"])
    assert compose("steps=7", "names=${run.name}").names == ["example"]
    with pytest.raises(UserError, match="names"):
        compose("steps=7", "names={a: 1}")
    assert compose("steps=1", "optim=reward").optim.lr == 1e-5
    quick = compose("preset=quick", "optim.lr=0.5")  # the preset before the user's own
    assert (quick.steps, quick.optim.lr) == (3, 0.5)


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("optim.lrr=1", ["optim.lrr", "optim.lr"]),
        ("stepz=1", ["stepz", "steps"]),
        ("+stepz=1", ["stepz", "steps"]),
        ("steps=many", ["steps", "many"]),
        ("ratio=[1]", ["ratio"]),
        ("optim=nothing", ["optim", "nothing"]),
        ("optim.schedule=linear", ["optim.schedule=linear", "cosine"]),
        ("preset=quik", ["preset=quik", "quick"]),
        ("run.wandb.mode=on", ["run.wandb.mode=on"]),
        ("run.progress=maybe", ["run.progress=maybe: need true or false"]),
        ("run.wandb=3", ["run.wandb=3: need keys of its own, like run.wandb.KEY=VALUE"]),
        ("=1", ["'=1' cannot be taken"]),
        ("run=null", ["'run=null' cannot be taken"]),
        ("optim=[1]", ["'optim=[1]' cannot be taken"]),
        ("names='${nothing}'", ["names", "'nothing' not found"]),
        ("run.name='${run.name}'", ["run.name", "Recursive interpolation"]),
        ("run.name='${nope:1}'", ["run.name", "nope"]),
        ("a" * 5000 + "=1", ["'aaaa", "File name too long"]),
        ("run.seed=" + "9" * 5000, ["'run.seed=9999", "5000 digits"]),
        ("run.dir=~/runs", ["run.dir=~/runs", "need the whole path, or $HOME"]),
        ("optim.lr=1,2", ["optim.lr=1,2", "--multirun"]),
        ("hydra.run.dir=x", ["hydra.run.dir=x", "run.dir"]),
        ("+hydra.x=1", ["+hydra.x=1", "run.dir"]),
        ("preset=../run/default", ["preset=../run/default: no such preset"]),
    ],
)
def test_mistakes_are_named(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        compose("steps=1", override)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("example:\n  - steps=1\n - ratio=1\n", [":3: not YAML"]),
        ("example: [steps=1]\nexample: [steps=2]\n", [":2: not YAML: the key 'example' stands twice"]),
        ("- steps=1\n", ["is no preset: found ['steps=1']", "need `program: [overrides]`"]),
        ("7\n", ["is no preset: found 7"]),
        ("", ["is no preset: found None"]),
        ("exampel: [steps=1]\n", ["'exampel' is neither a program nor `stages`", "the nearest is 'example'"]),
        ("steps: 1\nratio: 2\n", ["'steps' is neither a program"]),  # a run's config.yaml
        ("example: {steps: 1}\n", ["example is {'steps': 1}, need a list of overrides"]),
        ("example: [{steps: 1}]\n", ["example is [{'steps': 1}], need a list of overrides"]),
        ("example: [steps=1\n", ["not YAML"]),
        ("example: !!python/object/apply:os.system [ls]\n", ["not YAML"]),
        ("example: [stepz=1]\n", ["unknown key 'stepz'"]),
    ],
)
def test_a_preset_that_is_none(content: str, parts: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(content)
    with pytest.raises(UserError) as error:
        compose("steps=1", f"preset={own}")
    for part in parts:
        assert part in str(error.value)
    assert "own.yaml" in str(error.value) or "stepz" in content
    assert "\n" not in str(error.value)


def test_a_key_that_is_near_to_none_gets_no_hint() -> None:
    with pytest.raises(UserError, match=r"unknown key 'steps' for llamatrain sft \(see"):
        config.compose_dict("sft", ["steps=3"])


@pytest.mark.usefixtures("example")
def test_a_missing_value_is_explained() -> None:
    with pytest.raises(UserError, match=r"needs a value for steps \(steps: updates to take\)"):
        compose()


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    ("ranks", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, True),  # the first of another machine
        ({"RANK": "one", "WORLD_SIZE": "2"}, True),
        ({"RANK": "2", "WORLD_SIZE": "2"}, True),
    ],
)
def test_one_rank_of_a_machine_says_what_is_wrong(
    ranks: dict[str, str], speaks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        config.main("example", Example, lambda cfg: None, ["steps=none"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: steps=none") == speaks


@pytest.mark.usefixtures("example")
def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def run(*argv: str, task: object = None) -> int:
        with pytest.raises(SystemExit) as stop:
            config.main("example", Example, task or (lambda c: seen.append(c.steps)), argv)  # type: ignore[arg-type]
        return int(stop.value.code or 0)

    def fail(error: Exception) -> object:
        def task(_: Example) -> None:
            raise error

        return task

    assert run("steps=4") == 0 and seen == [4]
    assert run("steps=4", "nonsense") == 2 and "nonsense" in capsys.readouterr().err
    assert run("steps=4", task=fail(UserError("optim.lr is wrong"))) == 2
    assert capsys.readouterr().err == "error: optim.lr is wrong\n"
    assert run("steps=4", task=fail(config.Stopped("SIGTERM at step 3"))) == 75
    assert capsys.readouterr().err == "stopped: SIGTERM at step 3\n"
    assert run("steps=4", task=fail(PermissionError(13, "Permission denied", "a/file"))) == 2
    assert capsys.readouterr().err == "error: a/file cannot be read or written: Permission denied\n"
    assert run("steps=4", task=fail(UserError("two\nlines"))) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert run("steps=4", task=fail(RuntimeError("bug"))) == 1 and "Traceback" in capsys.readouterr().err
    assert run("--cfg", "job", "steps=4") == 0 and "steps: 4" in capsys.readouterr().out
    assert run("preset=quick", "--cfg", "job") == 0 and "steps: 3" in capsys.readouterr().out
    assert run("--cfg", "job") == 0 and "steps: ???" in capsys.readouterr().out
    assert run("--local_rank=1", "steps=5") == 0 and seen == [4, 5]
    assert run("--fast") == 2 and "unknown option --fast" in capsys.readouterr().err


END = """
import atexit, sys
from llamatrain import config
atexit.register(print, "exit functions run")
class Last:
    def __del__(self, say=print): say("the interpreter finalizes")
last = Last()
sys.argv = ["toyworld", *sys.argv[1:]]
config.main("toyworld", dict, lambda _: None)
"""


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--fast", 2)])
def test_a_program_ends_before_the_interpreter_finalizes(argument: str, code: int, repository: Path) -> None:
    # There gloo's threads would abort it (tests/distributed/test_end.py); whatever is registered for the exit is done.
    command = [sys.executable, "-c", END, argument]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("exit functions run\n")


@pytest.mark.usefixtures("example")
def test_multirun_gives_every_job_a_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    started: list[list[str]] = []

    def start(command: list[str]) -> int:
        started.append(command[2:])
        return 3 if len(started) == 2 else 0

    def run(*argv: str) -> int:
        with pytest.raises(SystemExit) as stop:
            config.main("example", Example, lambda _: None, argv)
        return int(stop.value.code or 0)

    monkeypatch.setattr(config, "_run", start)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="example.__main__"))
    assert run("-m", "run.name=rates", "optim.lr=1e-3,2e-3", "steps=1,2", "ratio=0.1") == 3  # the first failure's
    assert [job[-1] for job in started] == [
        f"run.name='rates/{number}_optim.lr={rate},steps={steps}'"
        for number, (rate, steps) in enumerate([("0.001", 1), ("0.001", 2), ("0.002", 1), ("0.002", 2)])
    ]
    assert started[1][:-1] == ["example", "run.name=rates", "optim.lr=0.001", "steps=2", "ratio=0.1"]
    assert run("-m", "steps=1", "run.name=x") == 2 and "several values" in capsys.readouterr().err
    assert run("-m", "steps=1,2", "run.name=null") == 2 and "needs run.name" in capsys.readouterr().err
