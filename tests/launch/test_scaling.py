"""Scaling curves: which trainings they are of, what is known of each, and the picture. What trains is replaced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import scaling
from launch.processes import Processes
from launch.scaling import curves, names
from tests.checkpoints import read_jsonl


def make_run(folder: Path, program: str = "reward", **changes: Any) -> Path:
    """A finished run of a reward model, as far as its settings go."""
    folder.mkdir(parents=True)
    run = {"name": folder.name, "dir": str(folder.parent), "seed": 0, "eval_every": 50, "wandb": {"mode": "offline"}}
    settings = {
        "run": run,
        "checkpoint": "sft/final",
        "epochs": 1.0,
        "batch_pairs": 16,
        "eval": ["held.jsonl"],
        **changes,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "status.json").write_text(json.dumps({"program": program, "state": "done"}))
    return folder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings that were trained with: instead of a program, files are written as it would."""
    seen: list[dict[str, Any]] = []

    def run(self: Processes, command: Sequence[str], ranks: int = 1, aside: bool = False) -> int:
        file = Path(command[-1].partition("=")[2])
        settings = yaml.safe_load(file.read_text())
        seen.append(settings)
        if settings["run"]["seed"] == 13:
            return 1
        folder, steps = file.parent, int(100 * settings["epochs"])
        accuracy = 0.5 + 0.3 * settings["epochs"] + 0.01 * settings["run"]["seed"]
        (folder / "final").mkdir()
        scores = {"of": "held-out pairs", "harmless": {"responses": 400}}
        (folder / "final" / "llamatrain.json").write_text(json.dumps({"scores": scores}))
        metrics = {"step": steps, "eval/accuracy": accuracy, "eval/accuracy_better": accuracy + 0.1}
        (folder / "metrics.jsonl").write_text(json.dumps(metrics) + "\n")
        (folder / "status.json").write_text(json.dumps({"program": "reward", "state": "done", "step": steps}))
        return 0

    monkeypatch.setattr(Processes, "run", run)
    return seen


def scale(run: Path, *more: str) -> int:
    with pytest.raises(SystemExit) as ended:
        scaling.main([str(run), *more])
    return int(ended.value.code or 0)


def test_every_share_and_seed_is_trained_once_as_the_run_was(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    run = make_run(tmp_path / "rm", kind="safety", optim={"lr": 0.5})
    assert scale(run, "shares=[1.0,0.25]", "seeds=[0,1]") == 0
    made = [(one["epochs"], one["run"]["seed"]) for one in trained]
    assert made == [(0.25, 0), (0.25, 1), (1.0, 0), (1.0, 1)]  # the small ones first
    assert all((one["kind"], one["optim"], one["batch_pairs"]) == ("safety", {"lr": 0.5}, 16) for one in trained)
    assert all(one["run"]["eval_every"] == 0 and one["run"]["wandb"]["mode"] == "disabled" for one in trained)
    lines = read_jsonl(tmp_path / "rm_scaling" / "scaling.jsonl")
    assert [(one["pairs"], one["seed"], one["held_out"]) for one in lines[:2]] == [(400, 0, 200), (400, 1, 200)]
    assert lines[0]["low"] < lines[0]["accuracy"] < lines[0]["high"]
    page = (tmp_path / "rm_scaling" / "scaling.html").read_text()
    assert "<svg" in page and "all pairs" in page and "pairs trained on" in page
    # The same command trains nothing again, and a longer list only what is new.
    assert scale(run, "shares=[1.0,0.25]", "seeds=[0,1]") == 0
    assert len(trained) == 4
    assert scale(run, "shares=[1.0,0.5,0.25]", "seeds=[0,1]") == 0
    assert [one["epochs"] for one in trained[4:]] == [0.5, 0.5]


def test_runs_made_otherwise_are_refused(
    tmp_path: Path, trained: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """RUN was trained again with another rate, from other data, or other starts are asked for: no curve is of both."""
    held, out = tmp_path / "held.jsonl", tmp_path / "out"
    held.write_text("{}\n")
    again = ["shares=[0.5]", "checkpoints=[a,b]", f"folder={out}"]
    run = make_run(tmp_path / "rm", optim={"lr": 0.5}, eval=[str(held)])
    assert scale(run, *again) == 0
    other = make_run(tmp_path / "other", optim={"lr": 0.25}, eval=[str(held)])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert scale(other, *again) == 2
    assert (
        "optim.lr=0.25: " in (said := capsys.readouterr().err) and "was trained with 0.5; need another folder=" in said
    )
    more = make_run(tmp_path / "more", optim={"lr": 0.5}, eval=[str(held), "more.jsonl"])
    assert scale(more, *again) == 2
    assert "eval.1=more.jsonl: " in capsys.readouterr().err
    assert scale(run, "shares=[0.5]", "checkpoints=[b]", f"folder={out}") == 2
    assert "checkpoint=b: " in capsys.readouterr().err
    held.write_text("{}\n{}\n")
    assert scale(run, *again) == 2
    assert f"{held} changed since" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    held.write_text("{}\n")
    assert scale(run, *again) == 0
    assert len(trained) == 2


def test_what_fails_keeps_what_is_known(
    tmp_path: Path, trained: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "rm")
    assert scale(run, "shares=[0.5]", "seeds=[0,13]", f"folder={tmp_path / 'out'}") == 1
    assert "seed13 failed (exit code 1)" in capsys.readouterr().err
    assert len(read_jsonl(tmp_path / "out" / "scaling.jsonl")) == 1


def test_curves_are_means_over_seeds_by_start() -> None:
    lines = [
        {
            "checkpoint": start,
            "parameters": size,
            "pairs": pairs,
            "seed": seed,
            "accuracy": 0.6 + 0.1 * seed + size / 1e8,
        }
        for start, size in (("a", 1_000_000), ("b", 2_000_000))
        for pairs in (100, 400)
        for seed in (0, 1)
    ]
    found = curves(lines, "accuracy")
    assert list(found) == ["a", "b"]
    assert [(x, round(mean, 3)) for x, mean, _, _ in found["a"]] == [(100, 0.66), (400, 0.66)]
    assert [(round(low, 3), round(high, 3)) for _, _, low, high in found["b"]] == [(0.62, 0.72)] * 2
    assert names(lines) == {"a": "1.00M parameters", "b": "2.00M parameters"}
    assert names([{**one, "parameters": 5} for one in lines]) == {"a": "a", "b": "b"}


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (
        ([str(tmp_path / "none")], "none"),
        ([str(make_run(tmp_path / "sft", "sft"))], "is a run of sft; need one of `llamatrain reward`"),
        ([str(make_run(tmp_path / "blind", eval=[]))], "without held-out pairs"),
        (["x", "shares=[0.5,2]"], "shares=2.0: need numbers above 0, at most 1"),
        (["x", "seeds=[]"], "seeds=[]: need at least one"),
    ):
        assert scale(Path(arguments[0]), *arguments[1:]) == 2
        assert told in capsys.readouterr().err
