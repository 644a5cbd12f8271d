"""Silent faults that leading projects shipped, put in on purpose: each is caught. docs/faults.md has the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamatrain import chat, fit, losses, start
from llamatrain.data.rows import write_rows
from llamatrain.engine.state import NamedState
from llamatrain.model.transformer import Transformer
from llamatrain.responses.rollouts import Packed, pack_rollouts
from llamatrain.tokenizer import Tokenizer
from rlhf import credit as credits
from rlhf import experience, learning, measures, ppo, replay
from rlhf.course import Course
from rlhf.kl import Coefficient, estimate
from tests.conftest import tiny_config
from tests.corpora import write_corpus

from . import checks, small
from .checks import Lab
from .worlds import make_world, save_checkpoint

Plant = Callable[[pytest.MonkeyPatch, Lab], None]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Lab:
    """Build it once: no check leaves a trace in it."""
    torch.manual_seed(0)
    folder, shape = tmp_path_factory.mktemp("lab"), tiny_config()
    world = make_world(folder / "world", shape, tokenizer)
    other = save_checkpoint(folder / "reference", Transformer(shape, seed=9), tokenizer)
    write_rows(folder / "text.jsonl", [{"text": "The red fox lives near the river. " * 30, "source": "test"}])
    write_corpus(folder / "corpus" / "train", [str(folder / "text.jsonl")], tokenizer)
    more = ["sampling.temperature=0.7", "kl_coef=0.3", "kl.estimator=k3", "rollout_prompts=6", "mini_batch_prompts=3"]
    gate = ["gate.unfinished_logit=-1", "replay_sequences=3"]
    cfg = small.composed(world, folder, "lab", *more, *gate)
    models = small.five_models(cfg, world)
    models.reference = small.five_models(cfg, {**world, "checkpoint": str(other)}).reference
    overrides = ["iterations=3", "run.save_every=1", "kl.target=0.5", "kl.horizon=20", "kl_coef=0.2"]
    text = replay.Replay(cfg, str(folder / "corpus"), tokenizer, context=48)
    finished = small.ppo(world, folder, "finished", *overrides)
    return Lab(cfg, models, world, tokenizer, text, finished, overrides)


def check(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run one of the checks."""
    more = {"everything_is_learned": (monkeypatch,), "resumed": (folder,)}.get(name, ())
    getattr(checks, name)(lab, *more)


CHECKS = [
    *("judging", "scores", "credit", "gradients", "replayed", "everything_is_learned", "measured", "critic"),
    *("reference", "resumed", "targets", "supervised"),
]


@pytest.mark.parametrize("name", CHECKS)
def test_all_is_well(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check(name, lab, monkeypatch, tmp_path)


# --- the faults --------------------------------------------------------------------------------------------------


def mean_per_micro_batch(module: Any, loss: str) -> Plant:
    """Sum the means of the micro-batches, in place of one mean over the mini-batch."""

    def plant(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
        former, tokens = getattr(module, loss), sum(len(one.rollout.tokens) for one in lab.judged())

        def averaged(*given: Any) -> Tensor:
            losses_: Tensor = former(*given)
            return losses_ * tokens / max(1, len(losses_))

        monkeypatch.setattr(module, loss, averaged)

    return plant


def text_mean_per_micro_batch(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    whole = sum(float(batch["weight"]) for batch in lab.replay.batches.batch_at(0))
    former = replay.language_model_loss

    def averaged(model: Any, batch: Any) -> Any:
        loss, extra = former(model, batch)
        return loss * whole / batch["weight"], extra

    monkeypatch.setattr(replay, "language_model_loss", averaged)


def supervised_mean_per_micro_batch(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = losses.language_model_loss

    def averaged(model: Any, batch: Any) -> Any:
        loss, extra = former(model, batch)
        return loss / batch["weight"], extra

    monkeypatch.setattr(losses, "language_model_loss", averaged)


def whitened_per_row(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = credits.whiten

    def rows(values: Tensor, mask: Tensor | None = None) -> Tensor:
        if values.dim() == 1 or mask is None:
            return former(values, mask)
        return torch.stack([former(row, own) for row, own in zip(values, mask, strict=True)])

    monkeypatch.setattr(credits, "whiten", rows)


def whitened_with_padding(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = credits.whiten
    monkeypatch.setattr(credits, "whiten", lambda values, mask=None: former(values))


def masked_by_multiplying(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    def whiten(values: Tensor, mask: Tensor) -> Tensor:
        exact, count = values.double() * mask, mask.sum()
        mean = exact.sum() / count
        variance = ((exact - mean).square() * mask).sum() / count
        return ((exact - mean) * (variance + 1e-8).rsqrt() * mask).to(values.dtype)

    def advantages(rewards: Tensor, values: Tensor, mask: Tensor, *rest: float) -> Tensor:
        return former(rewards, values, torch.ones_like(mask), *rest)

    former = credits.generalized_advantages
    monkeypatch.setattr(credits, "whiten", whiten)
    monkeypatch.setattr(credits, "generalized_advantages", advantages)


def zero_means_missing(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = experience.combined_logits

    def combined(helpfulness: Tensor, safety: Tensor, adversarial: Tensor, gate: Any) -> Tensor:
        found = former(helpfulness, safety, adversarial, gate)
        return torch.where(found == 0, torch.full_like(found, -1.0), found)

    monkeypatch.setattr(experience, "combined_logits", combined)


def last_mini_batch_left_out(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = learning.mini_batches
    monkeypatch.setattr(learning, "mini_batches", lambda *given: list(former(*given))[:-1])


def ragged_tail_left_out(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = learning.passes
    monkeypatch.setattr(learning, "passes", lambda *given: former(*given)[:-1])


def optimizer_forgotten(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    monkeypatch.setattr(NamedState, "load_optimizer_state", lambda *_: None)


def first_tokens_logprob(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = experience.token_logprobs
    monkeypatch.setattr(
        experience, "token_logprobs", lambda logits, targets, at: former(logits, targets[:1].expand_as(targets), at)
    )


def raw_logprobs(module: Any) -> Plant:
    """Leave the sampler's temperature out."""

    def plant(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
        former = module.token_logprobs
        monkeypatch.setattr(module, "token_logprobs", lambda logits, targets, _: former(logits, targets, 1.0))

    return plant


def packed_otherwise(change: Callable[[Packed], Packed]) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
        monkeypatch.setattr(experience, "pack_rollouts", lambda *given: change(pack_rollouts(*given)))

    return plant


def one_off(packed: Packed) -> Packed:
    return dataclasses.replace(packed, before=packed.before + 1)


def read_at_padding(packed: Packed) -> Packed:
    size = packed.inputs["input_ids"].numel()
    return dataclasses.replace(packed, last=(packed.last + 1).clamp(max=size - 1))


def read_before_eos(packed: Packed) -> Packed:
    return dataclasses.replace(packed, last=packed.last - 1)


def prompts_from_the_start(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former, begun = ppo.rollout_prompts, list[int]()

    def counted(cfg: Any, prompts: Any, iteration: int) -> Any:
        begun.append(iteration)
        return former(cfg, prompts, iteration - begun[0])

    monkeypatch.setattr(ppo, "rollout_prompts", counted)


def eos_not_learned(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    seen: list[Tensor] = []
    logprobs, loss = learning.token_logprobs, learning.policy_loss
    monkeypatch.setattr(learning, "token_logprobs", lambda *given: seen.append(given[1]) or logprobs(*given))
    monkeypatch.setattr(learning, "policy_loss", lambda *given: loss(*given) * (seen[-1] != lab.tokenizer.eos_id))


def masked_where(wrong: Callable[[int, int, int], bool]) -> Plant:
    """Take targets away from dialogues: by (place, tokens in all, token)."""

    def plant(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
        former = chat.encode_dialogue

        def encode(*given: Any) -> Any:
            tokens, mask = former(*given)
            return tokens, [
                m and not wrong(i, len(tokens), t) for i, (t, m) in enumerate(zip(tokens, mask, strict=True))
            ]

        monkeypatch.setattr(chat, "encode_dialogue", encode)

    return plant


def mask_lost(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = chat.encode_dialogue
    monkeypatch.setattr(chat, "encode_dialogue", lambda *given: (t := former(*given)[0], [True] * len(t)))


def values_by_temperature(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = experience.Judged

    def scaled(*given: Any) -> experience.Judged:
        judged = former(*given)
        return dataclasses.replace(judged, values=judged.values / lab.cfg.sampling.temperature)

    monkeypatch.setattr(experience, "Judged", scaled)


def kinds_whitened_together(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    monkeypatch.setattr(experience, "whiten_scores", lambda scores, *_, **__: credits.whiten(scores))


def another_kl_logged(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    monkeypatch.setattr(measures, "estimate", lambda ratios, _: estimate(ratios, "k1"))


def kl_of_padding(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = credits.token_rewards
    monkeypatch.setattr(
        credits, "token_rewards", lambda s, p, r, mask, *rest: former(s, p, r, mask, *rest) + (p - r) * ~mask
    )


def head_not_loaded(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = start._filled

    def filled(engine: Any, folder: Path) -> Any:
        head = dict(engine.module.named_parameters()).get(start.SCORE)
        kept = None if head is None else head.detach().clone()
        former(engine, folder)
        if head is not None and kept is not None:
            with torch.no_grad():
                head.copy_(kept)
        return engine

    monkeypatch.setattr(start, "_filled", filled)


def measured_by_another_mask(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = fit.evaluate_loss

    def evaluate(engine: Any, batches: Any, loss_fn: Any) -> Any:
        return former(engine, ({**b, "loss_mask": b["segment_ids"] > 0} for b in batches), loss_fn)

    monkeypatch.setattr(fit, "evaluate_loss", evaluate)


def advantages_over_responses(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = credits.generalized_advantages
    monkeypatch.setattr(
        credits,
        "generalized_advantages",
        lambda r, v, m, *rest: former(r.t(), v.masked_fill(~m, 0).t(), m.t(), *rest).t(),
    )


def value_loss_of_another_scale(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = learning.value_loss
    monkeypatch.setattr(learning, "value_loss", lambda *given: 2 * former(*given))


def coefficient_forgotten(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    monkeypatch.setattr(Coefficient, "load", lambda *_: None)


def penalty_never_fires(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    monkeypatch.setattr(experience, "hold_back", lambda combined, *_: combined)


def iteration_dropped(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = Course.resume
    monkeypatch.setattr(Course, "resume", lambda course: (done := former(course)) + (done > 0))


def reference_learns_along(monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
    former = small.load_models

    def load(*given: Any, **more: Any) -> Any:
        models = former(*given, **more)
        return dataclasses.replace(models, reference=models.policy.module)

    monkeypatch.setattr(small, "load_models", load)


PLANTED: list[tuple[str, Plant, str]] = [
    ("1 critic: mean per micro-batch", mean_per_micro_batch(learning, "value_loss"), "gradients"),
    ("2 another loss: mean per micro-batch", text_mean_per_micro_batch, "replayed"),
    ("3 policy: mean per micro-batch", mean_per_micro_batch(learning, "policy_loss"), "gradients"),
    ("3 SFT: mean per micro-batch", supervised_mean_per_micro_batch, "supervised"),
    ("4 whitened along the wrong axis", whitened_per_row, "credit"),
    ("5 a reward of 0 is missing", zero_means_missing, "scores"),
    ("6 the last mini-batch is left out", last_mini_batch_left_out, "everything_is_learned"),
    ("7 a ragged tail is left out", ragged_tail_left_out, "everything_is_learned"),
    ("8 the optimizer is forgotten", optimizer_forgotten, "resumed"),
    ("9 the first token's log-probability", first_tokens_logprob, "judging"),
    ("10 judged without the temperature", raw_logprobs(experience), "judging"),
    ("10 learned without the temperature", raw_logprobs(learning), "gradients"),
    ("11 a mask one off", packed_otherwise(one_off), "judging"),
    ("12 the prompts start over", prompts_from_the_start, "resumed"),
    ("13 EOS is masked as padding is", masked_where(lambda i, n, token: token == 2), "targets"),
    ("13 EOS is not learned by PPO", eos_not_learned, "gradients"),
    ("14 the stop token is no target", masked_where(lambda i, n, token: i == n - 1), "targets"),
    ("15 values by the temperature", values_by_temperature, "judging"),
    ("16 whitened over the wrong group", kinds_whitened_together, "scores"),
    ("17 another KL is logged", another_kl_logged, "measured"),
    ("18 the KL of padding counts", kl_of_padding, "credit"),
    ("19 the value head is not loaded", head_not_loaded, "critic"),
    ("20 the loss mask is lost", mask_lost, "targets"),
    ("21 NaN out of masked positions", masked_by_multiplying, "credit"),
    ("22 measured by another mask", measured_by_another_mask, "supervised"),
    ("23 advantages over the wrong dimension", advantages_over_responses, "credit"),
    ("24 advantages are not masked", whitened_with_padding, "credit"),
    ("25 a loss of another scale", value_loss_of_another_scale, "gradients"),
    ("27 the KL weight is forgotten", coefficient_forgotten, "resumed"),
    ("28 the missing-EOS rule never fires", penalty_never_fires, "scores"),
    ("29 scored at padding", packed_otherwise(read_at_padding), "judging"),
    ("29 scored without EOS", packed_otherwise(read_before_eos), "judging"),
    ("30 an iteration is dropped", iteration_dropped, "resumed"),
    ("the reference learns along", reference_learns_along, "reference"),
]


@pytest.mark.parametrize(("plant", "name"), [(plant, name) for _, plant, name in PLANTED], ids=[p[0] for p in PLANTED])
def test_a_planted_fault_is_caught(
    plant: Plant, name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plant(monkeypatch, lab)
    with pytest.raises(AssertionError):
        check(name, lab, monkeypatch, tmp_path)
