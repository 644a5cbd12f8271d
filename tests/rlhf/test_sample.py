"""The program `sample` on a tiny untrained world."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llamatrain import hf_folder, memory
from llamatrain.chat import encode_prompt
from llamatrain.config.compose import compose
from llamatrain.data.kinds import ResponseRow
from llamatrain.data.rows import read_rows
from llamatrain.errors import MissingFileError, UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.responses.rollouts import sample_rollouts
from llamatrain.responses.sampling import in_words
from llamatrain.tokenizer import Tokenizer
from rlhf.config import SampleConfig
from rlhf.sample import sample

from .worlds import overrides, read_jsonl, save_checkpoint

SMALL = ["sampling.max_new_tokens=8", "samples_per_prompt=2", "chunk_responses=6", "generation_batch_size=4"]


def run(world: dict[str, str], folder: Path, name: str, *more: str) -> Path:
    sample(compose("sample", SampleConfig, overrides(world, folder, name, *SMALL, *more)))
    return folder / name / "responses.jsonl"


def test_responses_are_valid_rows_in_the_prompts_order(world: dict[str, str], tmp_path: Path) -> None:
    rows = list(read_rows(run(world, tmp_path, "s"), ResponseRow))
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(f"p{i}", k) for i in range(12) for k in range(2)]
    assert all(0 < row[key] < 1 for row in rows for key in ("helpfulness", "safety_score", "combined"))
    assert all("raw" not in row for row in rows)
    metrics = read_jsonl(tmp_path / "s" / "metrics.jsonl")
    assert len(metrics) == 1
    assert metrics[0]["sample/responses"] == 24


def test_a_chunks_size_does_not_change_the_responses(world: dict[str, str], tmp_path: Path) -> None:
    one, other = (
        run(world, tmp_path, "one"),
        run(world, tmp_path, "other", "chunk_responses=24", "generation_batch_size=24"),
    )
    for a, b in zip(read_jsonl(one), read_jsonl(other), strict=True):
        assert a["response"] == b["response"]
        assert a["combined"] == pytest.approx(b["combined"], abs=2e-6)


def test_models_that_a_machine_cannot_hold_are_refused_before_they_are_loaded(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    with pytest.raises(UserError, match=r"sampling holds models of .* on a rank, which has 1 kB: need more memory"):
        run(world, tmp_path, "s", "generation_batch_size=null")
    assert run(world, tmp_path, "s").exists()  # told how many to generate at once, it tries


def test_an_interrupted_run_ends_with_the_same_bytes(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(world, tmp_path, "whole").read_bytes()
    original, calls = sample_rollouts, []

    def dies(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("llamatrain.responses.sampling.sample_rollouts", dies)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path, "again")
    assert not (tmp_path / "again" / "responses.jsonl").exists()
    assert run(world, tmp_path, "again").read_bytes() == whole
    assert len(calls) == 3 + 2  # two chunks were kept, two were made
    assert run(world, tmp_path, "again").read_bytes() == whole
    assert len(calls) == 5  # a finished run samples nothing
    assert len(read_jsonl(tmp_path / "again" / "metrics.jsonl")) == 1


def test_scores_are_the_reward_models_at_the_last_token(
    world: dict[str, str], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Greedy responses, scored again from the files alone."""
    rows = read_jsonl(run(world, tmp_path, "s", "sampling.temperature=0", "samples_per_prompt=1"))
    policy = hf_folder.load_model(Path(world["checkpoint"]))
    judge = hf_folder.load_model(Path(world["helpfulness"]))
    for row in rows[:3]:
        tokens = encode_prompt(row["messages"], tokenizer)
        with torch.no_grad():
            for _ in range(8):
                if tokens[-1] != tokenizer.eos_id:
                    tokens.append(int(policy(torch.tensor([tokens]))[0, -1].argmax()))
            score = judge(torch.tensor([tokens]))[0, -1].sigmoid()
        assert row["helpfulness"] == pytest.approx(float(score), abs=2e-6)


def test_without_reward_models_there_are_no_scores(world: dict[str, str], tmp_path: Path) -> None:
    bare = {key: world[key] for key in ("checkpoint", "prompts")}
    rows = read_jsonl(run(bare, tmp_path, "s"))
    assert not {"helpfulness", "safety_score", "combined"} & rows[0].keys()


def test_the_metrics_are_said_in_words_with_their_unit() -> None:
    means = {"responses": 2080, "finished": 0.984, "response_length": 21.6}
    plain = {f"sample/{key}": value for key, value in means.items()}
    assert in_words("sample", plain) == "2,080 responses, 98% finished, 21.6 tokens long on average"
    scored = plain | {"sample/helpfulness_harmless": -1.406, "sample/combined": 0.538, "sample/safety_score": 0.9}
    said = in_words("sample", scored).splitlines()[1]
    assert (
        said == "mean scores by the reward models (logits): helpfulness -1.41 on harmless prompts, combined 0.54 on all"
    )


def test_checkpoints_that_do_not_fit_together_are_named(
    world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    with pytest.raises(UserError, match="is a reward model; need a language model"):
        run({**world, "checkpoint": world["safety"]}, tmp_path, "a")
    with pytest.raises(MissingFileError, match="llamatrain reward"):
        run({**world, "safety": str(tmp_path / "none")}, tmp_path, "b")
    model_config.max_seq_len = 64
    short = save_checkpoint(tmp_path / "short", ScalarModel(model_config, seed=0), tokenizer)
    with pytest.raises(UserError, match="context of 64 tokens, checkpoint of 128"):
        run({**world, "safety": str(short)}, tmp_path, "c")


@pytest.mark.parametrize(
    "override",
    ["sampling.temperature=-1", "sampling.top_p=0", "samples_per_prompt=0", "generation_batch_size=0", "dtype=float16"],
)
def test_mistakes_are_named(override: str, world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=override.split("=")[0]):
        compose("sample", SampleConfig, overrides(world, tmp_path, "s", override))


def test_greedy_responses_to_a_prompt_would_all_be_the_same(world: dict[str, str], tmp_path: Path) -> None:
    given = overrides(world, tmp_path, "s", "samples_per_prompt=4", "sampling.temperature=0")
    with pytest.raises(UserError, match=r"samples_per_prompt=4: need 1 with sampling\.temperature=0"):
        compose("sample", SampleConfig, given)
