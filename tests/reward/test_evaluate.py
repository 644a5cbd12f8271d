"""Accuracy of a reward model: the figures, the files, the pool."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from llamatrain.config.compose import compose
from llamatrain.data.rows import write_rows
from llamatrain.errors import MissingFileError, UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.model.transformer import Transformer
from llamatrain.statistics import wilson
from llamatrain.tokenizer import Tokenizer
from reward.config import RewardEvaluateConfig
from reward.evaluate import evaluate
from reward.scoring import Scored, report, score_means, summary
from tests.checkpoints import quiet, read_jsonl, save_checkpoint

from .card.test_rows import made_row
from .test_reward import write_preferences

RESULTS = [
    Scored("a", 0, 2.0, 1.0, True, "better", True, False),
    Scored("a", 1, -3.0, -2.0, True, "better", True, True),
    Scored("a", 2, -1.0, -2.0, True, "negligibly_better", False, False),
    Scored("b", 0, 1.0, 0.5, False),
    Scored("b", 1, 0.5, 0.5, False),  # a tie is no success
]


def run(folder: Path, name: str, *more: str) -> Path:
    evaluate(compose("reward_evaluate", RewardEvaluateConfig, [*quiet(folder, name), *more]))
    return folder / name


def test_report_by_hand() -> None:
    found = json.loads(json.dumps(report(RESULTS)))
    low, high = wilson(0.6, 5)
    assert found["overall"] == {"accuracy": 0.6, "low": pytest.approx(low), "high": pytest.approx(high), "pairs": 5}
    rating = {name: (part["accuracy"], part["pairs"]) for name, part in found["by_rating"].items()}
    assert rating == {"better": (0.5, 2), "negligibly_better": (1.0, 1), "unrated": (0.5, 2)}
    bins = {name: (part["accuracy"], part["pairs"]) for name, part in found["by_bin"].items()}
    assert bins == {"safe_unsafe": (1.0, 1), "both_safe": (0.0, 1), "both_unsafe": (1.0, 1)}
    assert {name: part["pairs"] for name, part in found["by_file"].items()} == {"a": 3, "b": 2}
    # unsafe: 1.0, -1.0, -2.0; safe: 2.0, -3.0, -2.0, of which sigmoid < 0.15 (logit < -1.73): -3.0 and -2.0
    assert found["threshold"] == {
        "unsafe_recall": pytest.approx(2 / 3),
        "safe_below_0.15": pytest.approx(2 / 3),
        "unsafe": 3,
        "safe": 3,
    }


def test_summary_names_what_there_is() -> None:
    numbers = summary(RESULTS)
    assert numbers["eval/accuracy"] == 0.6
    assert numbers["eval/accuracy_both_safe"] == 0.0
    assert numbers["eval/unsafe_recall"] == pytest.approx(2 / 3)
    assert "eval/accuracy_significantly_better" not in numbers
    means = {"eval/score_harmless", "eval/score_chosen", "eval/score_rejected"}
    assert set(summary(RESULTS[3:])) == {"eval/accuracy", *means}


def test_mean_scores_by_kind_of_prompt_and_by_choice() -> None:
    found = score_means(RESULTS)
    assert found == {
        "eval/score_harmless": pytest.approx((1.0 + 0.5 + 0.5 + 0.5) / 4),
        "eval/score_adversarial": pytest.approx((2.0 + 1.0 - 3.0 - 2.0 - 1.0 - 2.0) / 6),
        "eval/score_chosen": pytest.approx((2.0 - 3.0 - 1.0 + 1.0 + 0.5) / 5),
        "eval/score_rejected": pytest.approx((1.0 - 2.0 - 2.0 + 0.5 + 0.5) / 5),
    }


def test_evaluates_files_and_folds_pool_to_the_whole(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    model = save_checkpoint(tmp_path / "rm", ScalarModel(model_config, seed=0), tokenizer)
    pairs = write_preferences(tmp_path / "p.jsonl", 20, "safety", labels=True)
    common = [f"checkpoint={model}", "micro_batch_size=3"]
    whole = run(tmp_path, "whole", *common, f"preferences=[{pairs}]")
    found = json.loads((whole / "accuracy.json").read_text())
    assert found["overall"]["pairs"] == 20
    assert set(found["by_rating"]) == {"better"}
    assert read_jsonl(whole / "metrics.jsonl")[0]["accuracy"] == found["overall"]["accuracy"]
    folds = [run(tmp_path, f"fold{i}", *common, f"preferences=['{pairs}@fold{i}/3']") for i in range(3)]
    pool = run(tmp_path, "pool", f"pool=[{','.join(map(str, folds))}]")
    assert json.loads((pool / "accuracy.json").read_text())["overall"] == found["overall"]
    first, second = (sorted(row["chosen_score"] for row in read_jsonl(f / "scores.jsonl")) for f in (whole, pool))
    assert first == pytest.approx(second, abs=1e-5)
    with pytest.raises(UserError, match=rf"fold1.*: row \d+ of {pairs} is scored twice in the pool"):
        run(tmp_path, "overlap", f"pool=[{whole},{folds[1]}]")


def test_two_models_are_measured_on_the_same_pairs(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    first, second = (
        save_checkpoint(tmp_path / name, ScalarModel(model_config, seed=seed), tokenizer)
        for seed, name in enumerate(("rm", "other"))
    )
    pairs = write_preferences(tmp_path / "p.jsonl", 20, "safety", labels=True)
    files = f"preferences=[{pairs}]"
    both = run(tmp_path, "both", f"checkpoint={first}", f"other={second}", files)
    alone = run(tmp_path, "alone", f"checkpoint={second}", files)
    found, other = (json.loads((folder / "accuracy.json").read_text()) for folder in (both, alone))
    assert found["models"]["other"]["by_kind"]["safety"]["all"] == other["overall"]
    assert found["models"]["checkpoint"]["by_kind"]["safety"]["all"] == found["overall"]
    assert 0 < found["compared"]["ordered_differently"] < 1
    assert other["compared"] is None
    rows = read_jsonl(both / "scores.jsonl")
    assert [row["other_chosen_score"] for row in rows] == [
        pytest.approx(row["chosen_score"], abs=1e-5) for row in read_jsonl(alone / "scores.jsonl")
    ]
    pool = run(tmp_path, "pool", f"pool=[{both}]")
    assert json.loads((pool / "accuracy.json").read_text()) == found


@pytest.mark.distributed
@pytest.mark.slow
def test_two_ranks_write_what_one_writes(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer, repository: Path
) -> None:
    first, second = (
        save_checkpoint(tmp_path / name, ScalarModel(model_config, seed=seed), tokenizer)
        for seed, name in enumerate(("rm", "other"))
    )
    pairs = write_preferences(tmp_path / "p.jsonl", 25, "safety", labels=True)
    about = [f"checkpoint={first}", f"other={second}", f"preferences=[{pairs}]", "micro_batch_size=4"]
    one = run(tmp_path, "one", *about)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.reward.worker"]
    environ = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    command = [sys.executable, *launcher, str(tmp_path), *about]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr[-4000:]
    two = tmp_path / "two"
    for file in ("accuracy.json", "scores.jsonl"):
        assert (two / file).read_bytes() == (one / file).read_bytes()


def test_mistakes_are_named(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match=r"pool=.*empty\.jsonl: there is no scored pair in it; need one at least"):
        run(tmp_path, "pool", f"pool={tmp_path / 'empty.jsonl'}")
    with pytest.raises(UserError, match="either checkpoint and preferences, or pool"):
        run(tmp_path, "x")
    with pytest.raises(UserError, match=r"preferences=\[\]: need at least one"):
        run(tmp_path, "x", "checkpoint=y")
    with pytest.raises(UserError, match="other=z: need checkpoint, the model that it stands beside"):
        run(tmp_path, "x", "pool=[y]", "other=z")
    with pytest.raises(MissingFileError, match=r"llamatrain reward\.evaluate"):
        run(tmp_path, "x", f"pool=[{tmp_path / 'none.jsonl'}]")
    write_rows(tmp_path / "twice.jsonl", [asdict(made_row(0)), asdict(made_row(0))])
    with pytest.raises(UserError, match=r"twice.jsonl:2: row 0 of a.jsonl is scored twice"):
        run(tmp_path, "x", f"pool=[{tmp_path / 'twice.jsonl'}]")
    write_rows(tmp_path / "other.jsonl", [{"text": "?"}])
    with pytest.raises(UserError, match=r"other.jsonl:1 is damaged: source is missing; .*reward\.evaluate"):
        run(tmp_path, "x", f"pool=[{tmp_path / 'other.jsonl'}]")
    chat = save_checkpoint(tmp_path / "chat", Transformer(model_config, seed=0), tokenizer)
    pairs = write_preferences(tmp_path / "p.jsonl", 4, "safety")
    with pytest.raises(UserError, match="is a language model; need a reward model"):
        run(tmp_path, "x", f"checkpoint={chat}", f"preferences=[{pairs}]")


def test_the_gate_is_the_papers() -> None:
    assert 1 / (1 + math.exp(-math.log(0.15 / 0.85))) == pytest.approx(0.15)
