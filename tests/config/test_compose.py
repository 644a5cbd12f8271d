"""Composition, its strictness, and what the user is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamatrain.config import compose as composing
from llamatrain.errors import UserError

from .conftest import Example


def compose(*overrides: str) -> Example:
    return composing.compose("example", Example, overrides)


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
def test_a_mapping_takes_names_of_the_users_own() -> None:
    assert compose("steps=1", "shares.books=2", "+shares.web=1").shares == {"books": 2.0, "web": 1.0}
    assert compose("preset=quick", "shares.web=1").shares == {"books": 2.0, "web": 1.0}


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
        ("shares.books=many", ["shares.books=many: need a number"]),
        ("shares=3", ["shares=3"]),
        ("run.wandb=3", ["run.wandb=3: need keys of its own, like run.wandb.KEY=VALUE"]),
        ("=1", ["'=1' cannot be taken"]),
        ("run=null", ["'run=null' cannot be taken"]),
        ("optim=[1]", ["'optim=[1]' cannot be taken"]),
        ("names='${nothing}'", ["names", "'nothing' not found"]),
        ("run.name='${run.name}'", ["run.name", "Recursive interpolation"]),
        ("run.name='${nope:1}'", ["run.name", "nope"]),
        ("a" * 5000 + "=1", ["'aaaa", "File name too long"]),
        ("run.seed=" + "9" * 5000, ["'run.seed=9999", "5000 digits"]),
        ("run.dir=~/runs", ["run.dir=~/runs", "need the full path, or $HOME"]),
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


@pytest.mark.parametrize("override", ["run=mine", "run=[a]"])
def test_a_group_of_keys_is_not_an_unknown_key(override: str) -> None:
    """`run` is a group of other programs; the pipeline has keys of its own there."""
    with pytest.raises(UserError, match=rf"^{re.escape(override)}: need keys of its own, like run.KEY=VALUE$"):
        composing.compose_dict("pipeline", [override])
    with pytest.raises(UserError, match=r"unknown key 'runs' for llamatrain pipeline; the nearest is 'run' "):
        composing.compose_dict("pipeline", ["runs=mine"])


@pytest.mark.usefixtures("example")
def test_a_preset_in_the_working_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work" / "presets"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    (folder / "mine.yaml").write_text("example: [steps=8]\n")
    assert compose("preset=mine").steps == 8
    assert compose("preset=quick").steps == 3
    (folder / "quick.yaml").write_text("example: [steps=9]\n")
    assert compose("preset=quick").steps == 9
    for name in ("nope", "presets/mine", "absent.yaml"):
        with pytest.raises(
            UserError, match=f"preset={name}: no such preset; need one of quick, in presets/ mine, quick, or"
        ):
            compose(f"preset={name}")


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("example:\n  - steps=1\n - ratio=1\n", [":3: not YAML"]),
        ("example: [steps=1]\nexample: [steps=2]\n", [":2: not YAML: duplicate key 'example'"]),
        ("- steps=1\n", ["is not a preset: found ['steps=1']", "need `program: [overrides]`"]),
        ("7\n", ["is not a preset: found 7"]),
        ("", ["is not a preset: found None"]),
        ("exampel: [steps=1]\n", ["there is no program 'exampel'", "the nearest is 'example'"]),
        ("steps: 1\nratio: 2\n", ["there is no program 'steps'"]),  # a run's config.yaml
        ("stages: {a: 1}\n", ["`stages` belongs to an earlier version; need values only"]),
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
        composing.compose_dict("sft", ["steps=3"])


@pytest.mark.usefixtures("example")
def test_a_missing_value_is_explained() -> None:
    with pytest.raises(UserError, match=r"need a value for steps \(updates to take\)"):
        compose()
