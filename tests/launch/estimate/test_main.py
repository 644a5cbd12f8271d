"""`llamatrain plan`: what it prints fits a terminal of 100 columns, and its exit code says whether all fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.estimate.__main__ import main


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    out, err = capsys.readouterr()
    return ended.value.code, out + err


@pytest.mark.parametrize(
    "arguments", [["preset=llama2_7b", "gpus=64", "rates.gpu_hour_price=2"], ["preset=demo", "cluster=cpu"]]
)
def test_a_chain_fits_the_terminal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, *arguments)
    assert code == 0 and "all in turn" in text and "✗" not in text and "…" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_70b_ppo_on_8_gpus_is_refused_with_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "ppo", "preset=llama2_70b", "gpus=8")
    told = " ".join(text.split())
    assert code == 2 and "✗ ppo does not fit 8 A100: sampling needs " in told and "need GPUs of " in told


def test_what_runs_no_model_has_nothing_to_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "tokenizer", "preset=llama2_7b") == (0, "tokenizer: nothing to plan, it runs no model\n")


def test_a_plan_plays_pretraining_through_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = tmp_path / "made" / "days.svg"
    code, text = said(capsys, "pretrain", "preset=llama2_7b", "gpus=64", "simulate=true", f"drawing={drawing}")
    assert code == 0 and "10,000 trials at the slowest on 8 nodes" in text and "lost GPU hours" in text
    assert f"drawn in {drawing}" in text and "6.7B parameters on 64 A100" in drawing.read_text()
    code, text = said(capsys, "pretrain", "preset=llama2_7b", "gpus=64", "simulate=true", f"drawing={tmp_path}")
    assert code == 2 and f"drawing={tmp_path}: cannot be written" in text


def test_mistakes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "pipeline") == (2, "error: which pipeline? Need preset=<name>, for example preset=llama2_7b\n")
    code, text = said(capsys, "preset=llama2_7b", "cluster=mine.yaml")
    assert code == 2 and "cluster=mine.yaml: there is no such file" in text
