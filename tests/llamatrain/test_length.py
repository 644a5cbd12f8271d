"""A batch above an epoch is refused, and so is a length beyond all measure that nobody gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.config.compose import compose, keys_given
from llamatrain.errors import UserError
from llamatrain.length import check_length
from llamatrain.settings import RunConfig
from sft.config import SFTConfig


def check(size: int = 4, epochs: float = 2, own: tuple[str, ...] = ()) -> None:
    check_length(("batch_sequences", size), 10, "packed rows", epochs, ("tokens", "steps"), own)


def test_one_rule() -> None:
    check(size=10, epochs=100)
    check(epochs=101, own=("steps",))
    with pytest.raises(UserError, match="batch_sequences=11: one epoch has 10 packed rows; need a batch of at most 10"):
        check(size=11, own=("steps",))
    with pytest.raises(UserError, match=r"tokens or steps: the default would train 101 epochs of 10 .*tokens=\.\.\."):
        check(epochs=101, own=("epochs",))


def test_what_the_user_gave() -> None:
    lengths = ["+epochs=3", "run.name=x", "steps=null", "optim.steps=1", "tokens=1e9"]
    assert keys_given("pretrain", lengths) == ["epochs", "tokens"]
    assert keys_given("pretrain", ["model=small", "model.n_layers=2"]) == ["model", "model.n_layers"]


def test_a_length_is_given_on_the_command_line_or_in_a_preset_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "presets" / "mine.yaml"
    own.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    own.write_text("sft: [epochs=3]\n")
    needed = ["run.name=x", "checkpoint=c", "train=[t]"]

    def run(*overrides: str) -> RunConfig:
        return compose("sft", SFTConfig, [*overrides, *needed]).run

    assert run().given == []
    assert run("preset=demo").given == []  # not what comes along, whatever it holds
    assert run("preset=demo", "epochs=3").given == ["epochs"]
    assert run(f"preset={own}").given == run("preset=mine").given == ["epochs"]
