"""PPO: the loop on tiny models."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from llamatrain import checkpoint, hf_folder
from llamatrain.config.compose import compose
from llamatrain.data.kinds import ResponseRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.scalar_head import ScalarModel
from llamatrain.noise import noise_key
from llamatrain.responses.prompts import load_prompts
from llamatrain.responses.scoring import scores_at_end
from llamatrain.tokenizer import Tokenizer
from rlhf.critic import rescale
from rlhf.experience import Judged, credit, judge, rewarded
from rlhf.kept import respond
from rlhf.measures import explained_variance, kind_metrics
from rlhf.ppo import dry_run, load_models, rollout_prompts
from rlhf.ppo_config import PPOConfig

from .small import composed, measures, ppo, weights
from .worlds import overrides, random_rollouts, save_checkpoint, write_prompts


def test_defaults_are_the_papers(tmp_path: Path, world: dict[str, str]) -> None:
    cfg = compose("ppo", PPOConfig, overrides(world, tmp_path, "ppo"))
    assert (cfg.rollout_prompts, cfg.mini_batch_prompts, cfg.clip, cfg.kl_coef, cfg.epochs) == (512, 64, 0.2, 0.01, 1)
    assert (cfg.optim.lr, cfg.optim.schedule, cfg.optim.eps, cfg.optim.weight_decay) == (1e-6, "constant", 1e-5, 0.1)
    assert 200 <= cfg.iterations <= 400
    assert cfg.gate.safety_threshold == 0.15
    assert (cfg.critic_optim.lr, cfg.gamma, cfg.gae_lambda, cfg.value_clip) == (9e-6, 1.0, 0.95, 0.2)
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
    start = dict(hf_folder.load_weights(Path(world["checkpoint"])))
    assert any(not torch.equal(first[name], start[name]) for name in first)


def test_first_iteration_starts_at_the_reference(world: dict[str, str], tmp_path: Path) -> None:
    row = measures(ppo(world, tmp_path, "ppo", "iterations=1", "mini_batch_prompts=8"))[0]
    assert row["ppo/kl"] == 0
    assert row["ppo/clip_fraction"] == 0
    assert abs(row["ppo/approx_kl"]) < 1e-6
    assert abs(row["ppo/policy_loss"]) < 1e-5  # advantages are whitened and the ratio is 1
    assert row["ppo/sampler_mismatch"] < 1e-5
    assert row["ppo/kl_k3"] == 0
    assert 5 < row["ppo/entropy"] < math.log(400)


def test_the_samplers_logprobs_stand_for_the_policys(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = ppo(world, tmp_path, "measured", "iterations=1")
    monkeypatch.setattr("rlhf.experience.entropies", None)  # no pass of the policy as it judges
    sampled = ppo(world, tmp_path, "sampled", "iterations=1", "old_logprobs=sampler")
    (one,), (other,) = measures(measured), measures(sampled)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert 0 < other["ppo/sampler_mismatch_mean"] < 1e-5  # of the first mini-batch
    first, second = weights(measured), weights(sampled)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


@pytest.mark.parametrize(
    "change", ["micro_batch_size=1", "micro_batch_size=4", "generation_batch_size=3", "zero=stage2"]
)
def test_how_the_work_is_divided_changes_nothing(change: str, world: dict[str, str], tmp_path: Path) -> None:
    key = change.split("=")[0]
    one = ppo(world, tmp_path, "one", "iterations=1", "epochs=2")
    other = ppo(world, tmp_path, f"other_{key}", "iterations=1", "epochs=2", change)
    for (name, a), b in zip(measures(one)[0].items(), measures(other)[0].values(), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5), name
    first, second = weights(one), weights(other)
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


@pytest.mark.parametrize("shift", [-6.0, 6.0])
def test_a_raw_critic_is_fit_before_the_policy_moves(
    shift: float, world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """Planted: a helpfulness model, and so a critic, of another scale than whitened rewards and far from their zero."""
    torch.manual_seed(0)
    raw = ScalarModel(model_config, seed=2)
    with torch.no_grad():
        hidden = raw.model(torch.randint(3, 400, (16, 24))).flatten(0, 1).mean(0)
        raw.score.weight.mul_(8).add_(shift * hidden / hidden.square().sum())
    path = str(save_checkpoint(tmp_path / "raw", raw, tokenizer))
    more = ["rollout_prompts=32", "mini_batch_prompts=16", "iterations=1"]
    write_prompts(tmp_path / "prompts.jsonl", 32)
    world = {**world, "helpfulness": path, "prompts": f"[{tmp_path / 'prompts.jsonl'}]"}
    row = measures(ppo(world, tmp_path, "ppo", *more))[0]
    assert abs(row["ppo/helpfulness"]) > 1
    assert row["ppo/held"] == 0
    assert row["ppo/explained_variance"] > 0
    assert row["ppo/value_loss"] < 2  # half the square of what a value of 6 for a return of 0 would cost is 18


def test_a_critic_that_explains_nothing_holds_the_policy(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.ppo.rescale", lambda cfg, critic, batch, context: batch.judged)  # the fault put in
    folder = ppo(world, tmp_path, "ppo", "iterations=2", "critic_optim.lr=1e-9")
    for row in measures(folder):
        assert row["ppo/explained_variance"] < 0
        assert row["ppo/held"] == 1
        assert row["ppo/grad_norm"] == 0
    monkeypatch.setattr("rlhf.ppo.PATIENCE", 3)
    with pytest.raises(UserError, match=r"the critic explains none .* after 3 iterations .*raise critic_optim\.lr"):
        ppo(world, tmp_path, "waits", "iterations=9", "critic_optim.lr=1e-9")


def test_the_rescaled_critic_is_what_learns(world: dict[str, str], tmp_path: Path) -> None:
    """The values that the batch has after the rescaling are those of the model that goes on."""
    cfg = composed(world, tmp_path, "ppo", "rollout_prompts=16", "mini_batch_prompts=16")
    parents = {key: checkpoint.resolve(world[key]) for key in ("checkpoint", "helpfulness", "safety")}
    models = load_models(cfg, parents, resumes=False, whole=True)
    tokenizer = hf_folder.load_tokenizer(parents["checkpoint"])
    prompts = load_prompts(cfg.prompts, tokenizer, 128, 8, None, "stop", print)
    with models.policy.generating() as model:
        rollouts = respond(cfg, model, rollout_prompts(cfg, prompts, 0), tokenizer)
    batch = credit(cfg, judge(cfg, models, rollouts, 128), cfg.kl_coef)
    before = explained_variance(batch.values[batch.mask], batch.credit.following[batch.mask])
    fitted = credit(cfg, rescale(cfg, models.critic, batch, 128), cfg.kl_coef)
    again = credit(cfg, judge(cfg, models, rollouts, 128), cfg.kl_coef)
    torch.testing.assert_close(fitted.values, again.values, atol=1e-4, rtol=1e-4)
    after = explained_variance(fitted.values[batch.mask], fitted.credit.following[batch.mask])
    assert before < 0 < after


def test_reward_models_without_their_zero_stop_before_anything_is_learned(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: both models' scores shifted by 6."""
    monkeypatch.setattr("rlhf.experience.scores_at_end", lambda *given: scores_at_end(*given) + 6)
    with pytest.raises(UserError, match=r"helpfulness model's scores on harmless prompts have a mean of \+"):
        ppo(world, tmp_path, "ppo", "iterations=1", "gate.require_centred=true")
    assert not (tmp_path / "ppo" / "final").exists()


def test_an_unfinished_response_is_rewarded_below_the_finished_ones_of_the_whole_batch(
    world: dict[str, str], tmp_path: Path
) -> None:
    """Planted: scores far below -1, so that only the batch can say what finishing is worth; in any order and portion."""
    cfg = composed(world, tmp_path, "ppo", "gate.unfinished_logit=-1")
    judged = [
        Judged(rollout, -6.0 + 0.1 * (i % 5), -6.0 + 0.1 * (i % 7), *[torch.zeros(len(rollout.tokens))] * 4)
        for i, rollout in enumerate(random_rollouts(40))
    ]
    combined, _ = rewarded(cfg, judged)
    for kind in (False, True):
        own = [i for i, j in enumerate(judged) if j.rollout.prompt.is_adversarial is kind]
        ended = [float(combined[i]) for i in own if judged[i].rollout.finished]
        cut = [float(combined[i]) for i in own if not judged[i].rollout.finished]
        assert cut
        assert max(cut) < min(ended)
    order = torch.randperm(40).tolist()
    assert torch.equal(rewarded(cfg, [judged[i] for i in order])[0], combined[order])


def test_measures_by_kind_of_prompt(world: dict[str, str], tmp_path: Path) -> None:
    """By hand: harmless prompts with a gated response, and whitened scores that differ in spread."""
    cfg = composed(world, tmp_path, "ppo")
    scores = [(3.0, -5.0), (0.0, 2.0), (1.0, 2.0), (9.0, -2.0)]  # prompts 0 and 3 are adversarial
    judged = [
        Judged(dataclasses.replace(rollout, tokens=[5, 2], finished=True, is_answer=True), *pair, *[torch.zeros(2)] * 4)
        for rollout, pair in zip(random_rollouts(4), scores, strict=True)
    ]
    judged[1] = dataclasses.replace(judged[1], safety=-3.0)
    batch = credit(cfg, judged, cfg.kl_coef)
    assert batch.combined.tolist() == [-5.0, -3.0, 1.0, -2.0]
    found = kind_metrics(batch)
    assert (found["ppo/gated_harmless"], found["ppo/gated_adversarial"]) == (0.5, 1.0)
    assert (found["ppo/helpfulness_harmless"], found["ppo/safety_adversarial"]) == (0.5, -3.5)
    assert (found["ppo/whitened_spread_harmless"], found["ppo/whitened_spread_adversarial"]) == pytest.approx(
        (1.0, 1.0)
    )
    assert (found["ppo/spread_harmless"], found["ppo/spread_adversarial"]) == (2.0, 1.5)
    found = kind_metrics(credit(dataclasses.replace(cfg, whiten="batch"), judged, cfg.kl_coef))
    spread = torch.tensor([-5.0, -3.0, 1.0, -2.0]).std(unbiased=False)
    assert found["ppo/whitened_spread_harmless"] == pytest.approx(2.0 / float(spread))
    assert found["ppo/whitened_spread_adversarial"] == pytest.approx(1.5 / float(spread))


def test_noise_is_not_that_of_rejection_sampling(world: dict[str, str], tmp_path: Path) -> None:
    """The first response to a prompt must not be the one that rejection sampling chose among."""
    with mock.patch("rlhf.kept.sample_rollouts") as sampled:
        respond(composed(world, tmp_path, "ppo"), mock.MagicMock(), [], mock.MagicMock())
    assert sampled.call_args.args[3].program == "ppo"
    keys = {noise_key(0, "p1", 0, program) for program in ("ppo", "rejection_sampling", "sample", "compare", "chat")}
    assert len(keys) == 5


def test_critic_warm_up_holds_the_policy(world: dict[str, str], tmp_path: Path) -> None:
    more = ["iterations=3", "critic_warmup=2", "run.save_every=1", "run.keep=0"]
    folder = ppo(world, tmp_path, "ppo", *more)
    start = dict(hf_folder.load_weights(Path(world["checkpoint"])))
    held = dict(hf_folder.load_weights(folder / "checkpoints" / "step_00000002"))
    assert all(torch.equal(start[name], held[name]) for name in start)
    assert any(not torch.equal(start[name], moved) for name, moved in weights(folder).items())
    rows = measures(folder)
    assert [row["ppo/grad_norm"] > 0 for row in rows] == [False, False, True]
    assert all(row["ppo/critic_grad_norm"] > 0 for row in rows)
    assert ["ppo/policy_loss" in row for row in rows] == [False, False, True]


def test_it_learns_what_is_rewarded(
    world: dict[str, str], tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """A reward model that likes EOS or the upper half of the vocabulary as the last token gets more and more of them."""
    judge = ScalarModel(model_config, seed=0)
    with torch.no_grad():
        for layer in judge.model.layers:
            layer.self_attn.o_proj.weight.zero_()  # type: ignore[union-attr, operator]
            layer.mlp.down_proj.weight.zero_()  # type: ignore[union-attr, operator]
        judge.model.embed_tokens.weight.zero_()[:, 0] = torch.where(torch.arange(400) < 200, -1.0, 1.0)
        judge.model.embed_tokens.weight[tokenizer.eos_id, 0] = 1.0
        judge.score.weight.zero_()[0, 0] = 0.1
    path = str(save_checkpoint(tmp_path / "judge", judge, tokenizer))
    write_prompts(tmp_path / "prompts.jsonl", 64)
    world = {**world, "helpfulness": path, "safety": path, "prompts": f"[{tmp_path / 'prompts.jsonl'}]"}
    folder = ppo(
        world,
        tmp_path,
        "ppo",
        "iterations=18",
        "rollout_prompts=64",
        "mini_batch_prompts=16",
        "micro_batch_size=16",
        "sampling.max_new_tokens=3",
        "optim.lr=1e-2",
        "critic_optim.lr=1e-2",
        "guards.kl_per_token=null",  # far from a reference of random weights, as it should be
    )
    scores = [row["ppo/score_combined"] for row in measures(folder)]
    limit = 0.1 * 32**0.5  # of one axis after the norm
    assert abs(scores[0]) < 0.5 * limit
    assert min(scores[-3:]) > 0.8 * limit, scores


def test_every_prompt_once_an_epoch_in_another_order(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path, "ppo", "iterations=3")
    prompts = [r.prompt for r in random_rollouts(12)]
    drawn = [pair for iteration in range(3) for pair in rollout_prompts(cfg, prompts, iteration)]
    first, second = drawn[:12], drawn[12:]
    for epoch, half in enumerate((first, second)):
        assert sorted(p.id for p, _ in half) == sorted(p.id for p in prompts)
        assert {number for _, number in half} == {epoch}
    assert [p.id for p, _ in first] != [p.id for p, _ in second]
    assert len({(p.id, number) for p, number in drawn}) == 24


def test_prompts_that_are_too_long_are_counted(world: dict[str, str], tmp_path: Path) -> None:
    rows = write_prompts(tmp_path / "prompts.jsonl", 12)
    long = {**rows[0], "id": "long", "messages": [{"role": "user", "content": "Where does the fox live? " * 99}]}
    write_rows(tmp_path / "prompts.jsonl", [long, *rows])
    given = {**world, "prompts": f"[{tmp_path / 'prompts.jsonl'}]"}
    first, second = measures(ppo(given, tmp_path, "ppo", "iterations=2"))
    assert (second["ppo/prompts"], second["ppo/skipped"]) == (12, 1)
    assert "ppo/skipped" not in first  # where it is evaluated, and at the end


def test_samples_are_kept_for_reading(world: dict[str, str], tmp_path: Path) -> None:
    folder = ppo(world, tmp_path, "ppo", "iterations=5", "samples_every=2", "samples_kept=3")
    rows = list(read_rows(folder / "samples.jsonl", ResponseRow))  # what a judge of responses can read
    assert [row["step"] for row in rows] == [1, 1, 1, 2, 2, 2, 4, 4, 4]
    assert {"prompt_id", "messages", "response", "helpfulness", "safety_score", "combined", "kl"} <= rows[0].keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mini_batch_prompts=3", "rollout_prompts=8: need a multiple of mini_batch_prompts=3"),
        ("sampling.temperature=0", "sampling.temperature=0"),
        ("sampling.top_p=0.9", r"sampling.top_p=0\.9: need 1"),
        ("clip=0", "clip=0"),
        ("gae_lambda=1.5", r"gae_lambda=1\.5"),
        ("iterations=0", "iterations=0"),
        ("rollout_prompts=1", "rollout_prompts=1: need 2 or more"),
        ("gate.safety_threshold=0", r"gate\.safety_threshold=0"),
    ],
)
def test_mistakes_are_named(override: str, message: str, world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        composed(world, tmp_path, "ppo", override)


def test_ranks_that_do_not_divide_a_mini_batch_are_told_what_is_idle(world: dict[str, str], tmp_path: Path) -> None:
    assert "padding" not in dry_run(composed(world, tmp_path, "ppo", "iterations=1"), 4)
    assert (
        dry_run(composed(world, tmp_path, "ppo", "iterations=1"), 6)
        .partition("\nmemory: ")[0]
        .endswith("(33.3% of the work is padding: 4 rows on 6 ranks)")
    )


def test_models_of_the_wrong_kind_are_named(world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"policy is a language model; need a reward model"):
        ppo({**world, "safety": world["checkpoint"]}, tmp_path, "a", "iterations=3")
    with pytest.raises(UserError, match=r"safety is a reward model; need a language model"):
        ppo({**world, "checkpoint": world["safety"]}, tmp_path, "b", "iterations=3")


def test_a_batch_above_all_prompts_and_an_endless_default_are_refused(world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rollout_prompts=16: one epoch has 12 prompts; need a batch of at most 12"):
        ppo(world, tmp_path, "wide", "rollout_prompts=16")
    with pytest.raises(UserError, match="iterations: the default would train 267 epochs of 12 prompts"):
        ppo(world, tmp_path, "long")
    assert (
        dry_run(composed(world, tmp_path, "plan", "iterations=3"), 2)
        .partition("\nmemory: ")[0]
        .endswith("3 iterations of 8 prompts and 2 updates: 2 epochs of 12 prompts; 2 responses per rank at once")
    )
    assert not [name for name in ("wide", "long", "plan") if (tmp_path / name).exists()]
