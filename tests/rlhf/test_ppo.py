"""PPO: the loop on tiny models."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch

from llamatrain import checkpoint, config
from llamatrain.data.rows import read_rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.tokenizer import Tokenizer
from rlhf.config import PPOConfig
from rlhf.ppo import batch_prompts, check_ranks, train

from .worlds import overrides, random_rollouts, read_jsonl, save_checkpoint

SMALL = [
    "batch_prompts=8",
    "mini_batch=4",
    "micro_batch_size=2",
    "batch_size=8",
    "max_new_tokens=8",
    "optim.lr=1e-3",
    "critic_optim.lr=1e-3",
    "samples_every=1",
]


def compose(world: dict[str, str], folder: Path, name: str, *more: str) -> PPOConfig:
    return config.compose("ppo", PPOConfig, overrides(world, folder, name, *SMALL, *more))


def ppo(world: dict[str, str], folder: Path, name: str, *more: str) -> Path:
    train(compose(world, folder, name, *more))
    return folder / name


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load_weights((folder / "final").resolve()))


def measures(folder: Path) -> list[dict[str, float]]:
    """Return the metrics without what time changes."""
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "time" and "seconds" not in k} for row in rows]


def test_defaults_are_the_papers(tmp_path: Path, world: dict[str, str]) -> None:
    cfg = config.compose("ppo", PPOConfig, overrides(world, tmp_path, "ppo"))
    assert (cfg.batch_prompts, cfg.mini_batch, cfg.clip, cfg.beta, cfg.epochs) == (512, 64, 0.2, 0.01, 1)
    assert (cfg.optim.lr, cfg.optim.schedule, cfg.optim.eps, cfg.optim.weight_decay) == (1e-6, "constant", 1e-5, 0.1)
    assert 200 <= cfg.iterations <= 400
    assert cfg.gate.safety_threshold == 0.15
    assert (cfg.critic_optim.lr, cfg.gamma, cfg.lam, cfg.value_clip) == (9e-6, 1.0, 0.95, 0.2)
    assert cfg.updates_per_iteration == 8


def test_one_run_and_a_resumed_one_are_equal(world: dict[str, str], tmp_path: Path) -> None:
    whole = ppo(world, tmp_path, "whole", "iterations=3")
    resumed = ppo(world, tmp_path, "resumed", "iterations=3", "run.save_every=1")
    for extra in ("checkpoints/step_00000003", "final"):
        path = resumed / extra
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    with (resumed / "samples.jsonl").open("a") as file:
        file.write('{"step": 3, "prom')  # as a kill leaves it
    ppo(world, tmp_path, "resumed", "iterations=3", "run.save_every=1")
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert measures(whole) == measures(resumed)
    assert (whole / "samples.jsonl").read_bytes() == (resumed / "samples.jsonl").read_bytes()
    start = dict(checkpoint.load_weights(Path(world["checkpoint"])))
    assert any(not torch.equal(first[name], start[name]) for name in first)


def test_first_iteration_starts_at_the_reference(world: dict[str, str], tmp_path: Path) -> None:
    row = measures(ppo(world, tmp_path, "ppo", "iterations=1", "mini_batch=8"))[0]
    assert row["ppo/kl"] == 0
    assert row["ppo/clip_fraction"] == 0
    assert abs(row["ppo/approx_kl"]) < 1e-6
    assert abs(row["ppo/policy_loss"]) < 1e-5  # advantages are whitened and the ratio is 1
    assert row["ppo/sampler_mismatch"] < 1e-4
    assert 5 < row["ppo/entropy"] < math.log(400)


@pytest.mark.parametrize("change", ["micro_batch_size=1", "micro_batch_size=4", "batch_size=3", "zero=stage2"])
def test_how_the_work_is_divided_changes_nothing(change: str, world: dict[str, str], tmp_path: Path) -> None:
    key = change.split("=")[0]
    one = ppo(world, tmp_path, "one", "iterations=1", "epochs=2")
    other = ppo(world, tmp_path, f"other_{key}", "iterations=1", "epochs=2", change)
    for (name, a), b in zip(measures(one)[0].items(), measures(other)[0].values(), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5), name
    first, second = weights(one), weights(other)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_critic_warm_up_holds_the_policy(world: dict[str, str], tmp_path: Path) -> None:
    folder = ppo(world, tmp_path, "ppo", "iterations=3", "critic_warmup=2", "run.save_every=1", "run.keep=0")
    start = dict(checkpoint.load_weights(Path(world["checkpoint"])))
    held = dict(checkpoint.load_weights(folder / "checkpoints" / "step_00000002"))
    assert all(torch.equal(start[name], held[name]) for name in start)
    assert any(not torch.equal(start[name], moved) for name, moved in weights(folder).items())
    rows = measures(folder)
    assert [row["ppo/grad_norm"] > 0 for row in rows] == [False, False, True]
    assert all(row["ppo/critic_grad_norm"] > 0 for row in rows)
    assert ["ppo/policy_loss" in row for row in rows] == [False, False, True]


def test_it_learns_what_is_rewarded(
    world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """A reward model that likes a last token of the upper half of the vocabulary gets more and more of them."""
    judge = ScalarModel(model_config, seed=0)
    with torch.no_grad():
        for layer in judge.model.layers:
            layer.self_attn.o_proj.weight.zero_()  # type: ignore[union-attr, operator]
            layer.mlp.down_proj.weight.zero_()  # type: ignore[union-attr, operator]
        judge.model.embed_tokens.weight.zero_()[:, 0] = torch.where(torch.arange(400) < 200, -1.0, 1.0)
        judge.score.weight.zero_()[0, 0] = 0.1
    path = str(save_checkpoint(tmp_path / "judge", judge, tokenizer))
    world = {**world, "helpfulness": path, "safety": path}
    folder = ppo(
        world,
        tmp_path,
        "ppo",
        "iterations=14",
        "batch_prompts=64",
        "mini_batch=16",
        "micro_batch_size=16",
        "max_new_tokens=3",
        "optim.lr=1e-2",
        "critic_optim.lr=1e-2",
        "gate.unfinished_logit=100",
    )
    scores = [row["ppo/score_combined"] for row in measures(folder)]
    limit = 0.1 * 32**0.5  # of one axis after the norm
    assert abs(scores[0]) < 0.5 * limit
    assert min(scores[-3:]) > 0.8 * limit, scores


def test_every_prompt_once_an_epoch_in_another_order(world: dict[str, str], tmp_path: Path) -> None:
    cfg = compose(world, tmp_path, "ppo", "iterations=3")
    prompts = [r.prompt for r in random_rollouts(12)]
    drawn = [pair for iteration in range(3) for pair in batch_prompts(cfg, prompts, iteration)]
    first, second = drawn[:12], drawn[12:]
    for epoch, half in enumerate((first, second)):
        assert sorted(p.id for p, _ in half) == sorted(p.id for p in prompts)
        assert {number for _, number in half} == {epoch}
    assert [p.id for p, _ in first] != [p.id for p, _ in second]
    assert len({(p.id, number) for p, number in drawn}) == 24


def test_samples_are_kept_for_reading(world: dict[str, str], tmp_path: Path) -> None:
    folder = ppo(world, tmp_path, "ppo", "iterations=5", "samples_every=2", "samples_kept=3")
    rows = list(read_rows(folder / "samples.jsonl", "response"))  # what a judge of responses can read
    assert [row["step"] for row in rows] == [1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert {"prompt_id", "messages", "response", "helpfulness", "safety_score", "combined", "kl"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mini_batch=3", "batch_prompts=8 must be a multiple of mini_batch=3"),
        ("temperature=0", "temperature=0"),
        ("clip=0", "clip=0"),
        ("lam=1.5", r"lam=1\.5"),
        ("iterations=0", "iterations=0"),
        ("gate.safety_threshold=0", r"gate\.safety_threshold=0"),
    ],
)
def test_mistakes_are_named(override: str, message: str, world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        compose(world, tmp_path, "ppo", override)


def test_too_many_ranks_are_refused(world: dict[str, str], tmp_path: Path) -> None:
    cfg = compose(world, tmp_path, "ppo")
    check_ranks(cfg, 4)
    with pytest.raises(UserError, match=r"mini_batch=4 cannot be divided among 8 ranks.*batch_prompts=8"):
        check_ranks(cfg, 8)


def test_models_of_the_wrong_kind_are_named(world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"policy is a language model; need a reward model"):
        ppo({**world, "safety": world["checkpoint"]}, tmp_path, "a")
    with pytest.raises(UserError, match=r"safety is a reward model; a language model is needed"):
        ppo({**world, "checkpoint": world["safety"]}, tmp_path, "b")
