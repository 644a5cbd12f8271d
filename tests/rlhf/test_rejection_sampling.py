"""The program `rejection_sampling` on a tiny untrained world, and the choice of the best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from llamatrain import hf_folder
from llamatrain.chat import encode_dialogue
from llamatrain.config.compose import compose
from llamatrain.data.cache import Table
from llamatrain.data.kinds import DialogueRow, PromptRow, ResponseRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.data.tokenized import Rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig, load_config
from llamatrain.model.transformer import Transformer
from llamatrain.responses import sampling
from llamatrain.responses.scoring import sigmoid
from llamatrain.tokenizer import Tokenizer
from rlhf.config import RejectionSamplingConfig
from rlhf.rejection_sampling import draw, dry_run, train, training_rows
from sft.__main__ import train as fine_tune
from sft.config import SFTConfig

from .worlds import overrides, read_jsonl, save_checkpoint

SMALL = ["sampling.max_new_tokens=60", "samples_per_prompt=8", "chunk_responses=40", "steps=3", "batch_sequences=2"]


def composed(world: dict[str, str], folder: Path, name: str, *more: str) -> RejectionSamplingConfig:
    given = [f"base={world['checkpoint']}", f"sft_train=[{Path(world['prompts'].strip('[]')).parent / 'sft.jsonl'}]"]
    arguments = overrides(world, folder, name, *SMALL, *given, *more)
    return compose("rejection_sampling", RejectionSamplingConfig, arguments)


def numbered_rows(count: int, first: int = 0) -> Rows:
    numbers = np.arange(count)
    return Rows((Table("", {"number": first + numbers}, {}),), np.zeros(count, np.int32), numbers)


def test_draw_takes_every_row_before_any_twice() -> None:
    drawn = draw(numbered_rows(5), 12, seed=0).column("number").tolist()
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 2, 3, 4]
    assert len(draw(numbered_rows(5), 3, seed=0)) == 3


def test_the_share_of_sft_rows() -> None:
    best, sft = numbered_rows(6, first=100), numbered_rows(12)
    count = {}
    for share in (None, 0.0, 0.25, 0.8):
        numbers = training_rows(best, sft, share, seed=0).column("number")
        count[share] = int((numbers < 100).sum())
        assert numbers[-6:].tolist() == list(range(100, 106))
    assert count == {None: 12, 0.0: 0, 0.25: 2, 0.8: 24}


def test_two_rounds(world: dict[str, str], tmp_path: Path) -> None:
    train(composed(world, tmp_path, "round1"))
    folder = tmp_path / "round1"
    best = list(read_rows(folder / "best.jsonl", DialogueRow))
    responses = list(read_rows(folder / "responses.jsonl", ResponseRow))
    assert len(responses) == 12 * 8
    for row in best:
        own = [r for r in responses if r["prompt_id"] == row["prompt_id"] and r["finished"] and r["response"]]
        assert row["combined"] == max(r["combined"] for r in own)
        assert row["loss"] == "last"
        (chosen,) = [r for r in own if r["sample"] == row["sample"]]
        assert row["messages"] == [*chosen["messages"], {"role": "assistant", "content": chosen["response"]}]
        assert all(row[key] == chosen[key] for key in ("helpfulness", "safety_score", "combined", "gated"))
    last = read_jsonl(folder / "metrics.jsonl")[-1]
    assert last["step"] == 3
    curve = [last[f"rs/best_of_{k}"] for k in (1, 2, 4, 8)]
    assert curve == sorted(curve)
    assert (curve[0], curve[-1]) == pytest.approx((last["rs/score_mean"], last["rs/score_best"]))
    for kind in ("harmless", "adversarial"):
        assert 0 <= last[f"rs/gated_{kind}"] <= 1
        assert last[f"rs/whitened_spread_{kind}"] > 0
    held = [r for r in responses if not r["finished"]]
    for prompt in {r["prompt_id"] for r in held}:
        ended = [r["combined"] for r in responses if r["prompt_id"] == prompt and r["finished"]]
        worst = max(r["combined"] for r in held if r["prompt_id"] == prompt)
        assert worst <= min([*ended, sigmoid(-1.0) + 1e-6])
    assert last["rs/kept"] == len(best)
    start = dict(hf_folder.load_weights(Path(world["checkpoint"])))
    tuned = dict(hf_folder.load_weights((folder / "final").resolve()))
    assert any(not torch.equal(start[name], tuned[name]) for name in start)

    # Its samples are what it was trained on: no setting of theirs may change behind it.
    for override in ("sampling.temperature=0.5", "samples_per_prompt=4", "max_prompts=6", "round=2", "dtype=bfloat16"):
        with pytest.raises(UserError, match=rf"{override}: .*round1.* was trained with .*its samples"):
            train(composed(world, tmp_path, "round1", "steps=6", override))
    assert list(read_rows(folder / "best.jsonl", DialogueRow)) == best

    # The second round samples the first's result and still trains on the first's best.
    second = {**world, "checkpoint": str(folder / "final")}
    train(composed(second, tmp_path, "round2", f"earlier=[{folder}/best.jsonl]"))
    assert (tmp_path / "round2" / "responses.jsonl").read_bytes() != (folder / "responses.jsonl").read_bytes()
    assert (tmp_path / "round2" / "final").exists()


def test_samples_of_a_larger_model_train_smaller_ones(
    world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """The paper's 70B alone samples: a smaller base learns from it, and another from what was kept, without sampling again."""
    small = replace(model_config, dim=16, hidden_dim=32, n_layers=1)
    base = save_checkpoint(tmp_path / "small", Transformer(small, seed=5), tokenizer)
    train(composed(world, tmp_path, "of_the_large", f"base={base}"))
    train(composed(world, tmp_path, "large"))
    made = tmp_path / "of_the_large"
    assert (made / "best.jsonl").read_bytes() == (tmp_path / "large" / "best.jsonl").read_bytes()
    assert load_config((made / "final").resolve())[0].dim == 16
    quiet = [f"run.dir={tmp_path}", "run.name=again", "run.progress=false", "run.wandb.mode=disabled", "epochs=1"]
    given = [f"checkpoint={base}", f"train=[{tmp_path / 'large' / 'best.jsonl'}]", "batch_sequences=2"]
    fine_tune(compose("sft", SFTConfig, [*quiet, *given]))
    start, tuned = (dict(hf_folder.load_weights(p)) for p in (base, (tmp_path / "again" / "final").resolve()))
    assert any(not torch.equal(start[name], tuned[name]) for name in start)


def test_each_round_has_noise_of_its_own(world: dict[str, str], tmp_path: Path) -> None:
    """Else a policy tuned on the best samples would be asked for the same ones again."""
    names = []
    for more in ([], ["round=1"], ["round=2"], ["round=3"]):
        patch = mock.patch("rlhf.rejection_sampling.make_responses", side_effect=KeyboardInterrupt)
        with patch as sampled, pytest.raises(KeyboardInterrupt):
            train(composed(world, tmp_path, "r", *more))
        names.append(sampled.call_args.args[-1])
    assert names[0] == names[1] == "rejection_sampling"
    assert len(set(names)) == 3


def test_one_reward_model_scores_alone(world: dict[str, str], tmp_path: Path) -> None:
    """Whatever the prompt, and the other model need not be there."""
    alone = {key: value for key, value in world.items() if key != "safety"}
    given = ["safety=null", "gate.models=helpfulness"]
    train(composed(alone, tmp_path, "r", *given))
    responses = list(read_rows(tmp_path / "r" / "responses.jsonl", ResponseRow))
    assert all("safety_score" not in row and "gated" not in row for row in responses)
    ended = [row for row in responses if row["finished"] and row["response"]]
    assert ended and all(row["combined"] == row["helpfulness"] for row in ended)
    assert {row["is_adversarial"] for row in ended} == {True, False}
    for best in read_jsonl(tmp_path / "r" / "best.jsonl"):
        assert best["combined"] == max(row["combined"] for row in ended if row["prompt_id"] == best["prompt_id"])
    # With both models there and one of them alone, the scores that count are the same.
    train(composed(world, tmp_path, "both", "gate.models=helpfulness"))
    both = read_jsonl(tmp_path / "both" / "responses.jsonl")
    assert [row["combined"] for row in both] == [row["combined"] for row in responses]
    assert not any(row["gated"] for row in both)


def test_the_temperature_is_the_one_whose_best_scores_highest(
    world: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["try_temperatures=[0.6,1.4]", "trial_prompts=5"]
    assert "before: temperatures 0.6, 1, 1.4 on 5 prompts each = 120 responses" in dry_run(
        composed(world, tmp_path, "r", *given), None
    )
    train(composed(world, tmp_path, "r", *given, "run.progress=true"))
    rows = read_jsonl(tmp_path / "r" / "temperatures.jsonl")
    assert [(row["temperature"], row["k"]) for row in rows] == [(t, k) for t in (0.6, 1.0, 1.4) for k in (1, 2, 4, 8)]
    best = {row["temperature"]: row["best"] for row in rows if row["k"] == 8}
    (chosen,) = {row["temperature"] for row in rows if row["chosen"]}
    assert best[chosen] == max(best.values())
    responses = read_jsonl(tmp_path / "r" / "responses.jsonl")
    assert {row["temperature"] for row in responses} == {chosen}
    assert read_jsonl(tmp_path / "r" / "metrics.jsonl")[-1]["rs/temperature"] == chosen
    assert f"sampling at {chosen:g}" in capsys.readouterr().err
    # The samples are those of a run that was given this temperature: trials have noise of their own.
    train(composed(world, tmp_path, "given", f"sampling.temperature={chosen}"))
    for file in ("responses.jsonl", "best.jsonl", "final/model.safetensors"):
        assert (tmp_path / "given" / file).read_bytes() == (tmp_path / "r" / file).read_bytes(), file


def test_temperatures_are_tried_on_the_rounds_own_prompts(world: dict[str, str], tmp_path: Path) -> None:
    """Planted: twelve prompts, of which the first round was tuned on six."""
    given = ["round=2", "max_prompts=6", "try_temperatures=[0.6]", "trial_prompts=3"]
    train(composed(world, tmp_path, "r", *given))
    asked: dict[str, set[str]] = {}
    for path in (tmp_path / "r" / "chunks").glob("*/*.jsonl"):
        asked.setdefault(path.parent.name, set()).update(row["prompt_id"] for row in read_jsonl(path))
    trial, whole = {"p6", "p7", "p8"}, {f"p{i}" for i in range(6, 12)}
    assert sorted(asked.values(), key=len) == [trial, trial, whole]
    few = composed(world, tmp_path, "few", *given, "max_prompts=2")
    assert "before: temperatures 0.6, 1 on 2 prompts each = 32 responses" in dry_run(few, None)


def test_only_the_sampled_answer_of_a_multi_turn_prompt_is_trained(
    world: dict[str, str], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Planted: prompts whose earlier answers are somebody else's."""
    earlier = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "To bully him, call him names."}]
    rows = list(read_rows(world["prompts"].strip("[]"), PromptRow))
    write_rows(tmp_path / "turns.jsonl", [{**row, "messages": [*earlier, *row["messages"]]} for row in rows])
    train(composed({**world, "prompts": f"[{tmp_path / 'turns.jsonl'}]"}, tmp_path, "r", "sft_train=[]"))
    best = list(read_rows(tmp_path / "r" / "best.jsonl", DialogueRow))
    assert best
    for row in best:
        tokens, mask = encode_dialogue(row["messages"], tokenizer, loss=row["loss"])
        trained = tokenizer.decode([token for token, wanted in zip(tokens, mask, strict=True) if wanted])
        assert trained.strip() == row["messages"][-1]["content"].strip()
        assert "bully" in tokenizer.decode(tokens)


def test_reward_models_without_their_zero_stop_before_the_fine_tuning(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted: both models' scores shifted by -6."""
    original = sampling.score
    monkeypatch.setattr("llamatrain.responses.sampling.score", lambda *given: original(*given) - 6)
    with pytest.raises(UserError, match="helpfulness model's scores on harmless prompts have a mean of -"):
        train(composed(world, tmp_path, "stops", "gate.require_centred=true"))
    assert not (tmp_path / "stops" / "final").exists()
    train(composed(world, tmp_path, "warns", "run.progress=true"))
    assert "warning: the helpfulness model's scores" in capsys.readouterr().err
    last = read_jsonl(tmp_path / "warns" / "metrics.jsonl")[-1]
    assert last["rs/helpfulness_logit_harmless"] < -3


def test_a_killed_run_ends_with_the_same_bytes(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the sampling, then in the fine-tuning after a checkpoint: files and weights are those of one run."""
    train(composed(world, tmp_path, "whole"))
    import llamatrain.fit

    def dies_at(module: Any, name: str, when: int) -> pytest.MonkeyPatch:
        original, calls = getattr(module, name), []

        def dying(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == when:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        patch = pytest.MonkeyPatch()
        patch.setattr(module, name, dying)
        return patch

    for module, name in ((sampling, "sample_rollouts"), (llamatrain.fit, "train_step")):
        patch = dies_at(module, name, 2)
        with pytest.raises(KeyboardInterrupt):
            train(composed(world, tmp_path, "again", "run.save_every=1"))
        patch.undo()
    train(composed(world, tmp_path, "again", "run.save_every=1"))
    for file in ("responses.jsonl", "best.jsonl", "final/model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "helpfulness=null",
            "helpfulness=null: need the reward models that gate.models=both names, or gate.models=safety",
        ),
        ("try_temperatures=[0.8,0]", r"try_temperatures=\[0\]: need numbers above 0"),
        ("gate.models=neither", "gate.models=neither: need one of both, helpfulness, safety"),
        ("steps=0", "steps=0"),
        ("sft_fraction=1", "sft_fraction=1"),
        ("micro_batch_size=0", "micro_batch_size=0"),
    ],
)
def test_mistakes_are_named(override: str, message: str, world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        composed(world, tmp_path, "r", override)


def test_a_policy_that_never_finishes_is_named(world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompt has a finished"):
        train(
            composed(
                world, tmp_path, "r", "sampling.max_new_tokens=1", "samples_per_prompt=1", "sampling.temperature=0.001"
            )
        )


def test_mistakes_of_the_fine_tuning_show_before_the_sampling(world: dict[str, str], tmp_path: Path) -> None:
    for override, message in (
        (f"replay={tmp_path}/none", r"llamatrain corpus"),
        (f"earlier=[{tmp_path}/none.jsonl]", r"none\.jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            train(composed(world, tmp_path, "r", override))
    assert not (tmp_path / "r").exists()
