"""What must hold of PPO and of supervised training, each by a plain loop: test_faults.py plants what must break it.

Everything is looked up in its module when a check runs, so that a planted fault is met.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llamatrain import chat, fit, hf_folder, losses, start
from llamatrain.data.dialogues import DialogueBatches
from llamatrain.tokenizer import Tokenizer
from rlhf import credit as credits
from rlhf import experience, learning, measures
from rlhf.experience import Batch, Models
from rlhf.ppo_config import PPOConfig
from rlhf.replay import Replay

from . import plain, small
from .worlds import random_rollouts

COUNT, CONTEXT = 6, 128
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@dataclass
class Lab:
    """A policy that has left its reference, its critic and judges, and text: all tiny."""

    cfg: PPOConfig
    models: Models
    world: dict[str, str]
    tokenizer: Tokenizer
    replay: Replay
    finished: Path  # a run of three iterations, each of which is saved
    overrides: list[str]  # its settings

    def judged(self) -> list[experience.Judged]:
        """Return random responses of uneven lengths, every second one finished, as PPO judges them."""
        return experience.judge(self.cfg, self.models, random_rollouts(COUNT), CONTEXT)

    def batch(self) -> Batch:
        """Return them with credit, as an earlier policy and critic would have left them."""
        batch = experience.credit(self.cfg, self.judged(), self.cfg.kl_coef)
        generator = torch.Generator().manual_seed(1)
        for values in (batch.logprobs, batch.values):
            values += 0.2 * torch.randn(values.shape, generator=generator) * batch.mask
        return batch


def judging(lab: Lab) -> None:
    """Log-probabilities, values and scores are those of each response alone, at its own tokens."""
    with torch.no_grad():
        for one in lab.judged():
            given = one.rollout.prompt.tokens, one.rollout.tokens
            for found, model in ((one.logprobs, lab.models.policy.module), (one.reference, lab.models.reference)):
                torch.testing.assert_close(
                    found, plain.own_logprobs(model, *given, lab.cfg.sampling.temperature), **CLOSE
                )
            torch.testing.assert_close(one.values, plain.own_values(lab.models.critic.module, *given), **CLOSE)
            assert one.helpfulness == pytest.approx(plain.own_score(lab.models.helpfulness, *given), abs=1e-4)
            assert one.safety == pytest.approx(plain.own_score(lab.models.safety, *given), abs=1e-4)


def scores(lab: Lab) -> None:
    """A combined score is its model's, also where that is 0; unfinished responses lie below finished ones of their kind."""
    judged = lab.judged()
    judged[1].helpfulness, judged[1].safety = 0.0, 2.0  # finished, harmless
    combined = experience.rewarded(lab.cfg, judged)[0].tolist()
    assert combined[1] == 0.0
    for kind in (False, True):
        own = [i for i, one in enumerate(judged) if one.rollout.prompt.is_adversarial is kind]
        ended = [combined[i] for i in own if judged[i].rollout.finished]
        cut = [combined[i] for i in own if not judged[i].rollout.finished]
        assert cut
        assert max(cut) < min(ended)
    # Each kind by itself has mean 0 and variance 1.
    whitened = experience.credit(lab.cfg, judged, 0.0).credit.whitened
    for kind in (False, True):
        own = torch.tensor([one.rollout.prompt.is_adversarial is kind for one in judged])
        assert float(whitened[own].mean()) == pytest.approx(0, abs=1e-5)
        assert float(whitened[own].std(unbiased=False)) == pytest.approx(1, abs=1e-3)


def credit(lab: Lab) -> None:
    """Rewards, advantages and returns are those of plain loops, whatever stands in the padding."""
    del lab
    lengths, size = [4, 1, 3, 2], 4  # a square: a wrong axis has the right shape
    mask = torch.arange(size)[None] < torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(0)
    for junk in (7.0, math.nan):
        logprobs, reference, values = (
            torch.randn(len(lengths), size, generator=generator).masked_fill(~mask, junk) for _ in range(3)
        )
        whitened = torch.tensor([1.0, -1.0, 0.5, 0.0])
        found = credits.assign(whitened, logprobs, reference, values, mask, 0.1, 0.9, 0.8)
        advantages: dict[tuple[int, int], float] = {}
        for row, length in enumerate(lengths):
            rewards = [-0.1 * float(logprobs[row, t] - reference[row, t]) for t in range(length)]
            rewards[-1] += float(whitened[row])
            own = [float(v) for v in values[row, :length]]
            deltas = [rewards[t] + 0.9 * (own[t + 1] if t + 1 < length else 0.0) - own[t] for t in range(length)]
            for t in range(length):
                advantages[row, t] = sum(0.72 ** (k - t) * deltas[k] for k in range(t, length))
                assert float(found.rewards[row, t]) == pytest.approx(rewards[t], abs=1e-5)
                assert float(found.returns[row, t]) == pytest.approx(advantages[row, t] + own[t], abs=1e-5)
        mean = sum(advantages.values()) / len(advantages)
        spread = math.sqrt(sum((a - mean) ** 2 for a in advantages.values()) / len(advantages))
        for (row, t), advantage in advantages.items():
            assert float(found.advantages[row, t]) == pytest.approx((advantage - mean) / spread, abs=1e-4)
        for part in (found.rewards, found.advantages, found.returns):
            assert (part[~mask] == 0).all()


def gradients(lab: Lab) -> None:
    """One update's gradients are means over all response tokens of the mini-batch, EOS included."""
    batch = lab.batch()
    expected = plain.gradients(lab.cfg, lab.models, batch, list(range(COUNT)))
    tokens = int(batch.mask.sum())
    learning.accumulate(lab.cfg, lab.models, batch, list(range(COUNT)), tokens, CONTEXT, False, learning.Extremes())
    engines = (lab.models.policy, lab.models.critic)
    found = [{name: weight.grad for name, weight in engine.module.named_parameters()} for engine in engines]
    for engine in engines:
        engine.module.zero_grad()
    for own, wanted in zip(found, expected, strict=True):
        for name, gradient in wanted.items():
            torch.testing.assert_close(own[name], gradient, atol=1e-5, rtol=1e-3)


def replayed(lab: Lab) -> None:
    """The gradients of replayed text are those of the mean loss over all of its tokens."""
    lab.replay.accumulate(lab.models.policy)
    module = lab.models.policy.module
    found = {name: weight.grad for name, weight in module.named_parameters()}
    module.zero_grad()
    total = torch.zeros(())
    tokens = 0
    for row in lab.replay.batches.batch_at(0):
        ids = row["input_ids"]
        total = total - module(ids)[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None]).sum()
        tokens += ids.shape[1] - 1
    for name, gradient in plain.of(lab.cfg.replay_coef * total / tokens, module).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def everything_is_learned(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each response token is learned from once an epoch: none of the last mini-batch, none of a ragged tail, is left out."""
    seen: list[Tensor] = []
    former = learning.policy_loss
    monkeypatch.setattr(learning, "policy_loss", lambda r, a, clip: seen.append(a) or former(r, a, clip))
    monkeypatch.setattr(type(lab.models.policy), "step", lambda engine: engine.module.zero_grad() or 0.0)
    batch = lab.batch()
    learning.learn(lab.cfg, lab.models, batch, 0, CONTEXT, hold=False)
    advantages = batch.credit.advantages[batch.mask]
    assert torch.equal(torch.cat(seen).sort().values, advantages.sort().values)


def measured(lab: Lab) -> None:
    """The penalty that is logged is the one that was taken off the rewards."""
    batch = experience.credit(lab.cfg, lab.judged(), lab.cfg.kl_coef)
    found = measures.batch_metrics(lab.cfg, batch)
    taken = batch.credit.whitened - batch.credit.rewards.sum(1)
    assert found["ppo/kl_penalty"] == pytest.approx(float(taken.mean()), abs=1e-5)
    own = [float((one.logprobs - one.reference).sum()) for one in batch.judged]
    assert found["ppo/kl"] == pytest.approx(sum(own) / COUNT, abs=1e-4)


def critic(lab: Lab) -> None:
    """The critic starts as the helpfulness model, its head included."""
    found = dict(small.five_models(lab.cfg, lab.world).critic.module.named_parameters())
    for name, weight in lab.models.helpfulness.named_parameters():
        assert torch.equal(found[name], weight), name


def reference(lab: Lab) -> None:
    """The reference stays where it is while the policy learns."""
    models = small.five_models(lab.cfg, lab.world)
    before = [weight.clone() for weight in models.reference.parameters()]
    with torch.no_grad():
        for weight in models.policy.module.parameters():
            weight += 1
    assert all(torch.equal(a, b) for a, b in zip(before, models.reference.parameters(), strict=True))


def resumed(lab: Lab, folder: Path) -> None:
    """A run that is stopped after two iterations and resumed is the undisturbed one: weights, and metrics without a gap."""
    shutil.copytree(lab.finished, folder / "resumed", symlinks=True)
    shutil.rmtree(folder / "resumed" / "checkpoints" / "step_00000003")
    small.ppo(lab.world, folder, "resumed", *lab.overrides)
    assert small.measures(folder / "resumed") == small.measures(lab.finished)
    whole, own = small.weights(lab.finished), small.weights(folder / "resumed")
    assert all(torch.equal(whole[name], own[name]) for name in whole)


def targets(lab: Lab) -> None:
    """Of a dialogue the answers are learned, with the EOS that ends them, and nothing else."""
    question, answer = "Where does the fox live?", "In the forest."
    messages: Any = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    tokens, mask = chat.encode_dialogue(messages, lab.tokenizer)
    prompt = chat.encode_prompt(messages[:1], lab.tokenizer)
    assert mask == [False] * len(prompt) + [True] * (len(tokens) - len(prompt))
    assert tokens[-1] == lab.tokenizer.eos_id


def supervised(lab: Lab) -> None:
    """Loss and gradient are means over all targets whatever the micro-batches, and what is measured is what is learned."""
    rows: Any = [
        {
            "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "The red fox. " * n}],
            "source": "test",
        }
        for n in range(1, 5)
    ]
    found = []
    for micro in (1, 4):
        # As rows of their own: micro-batches of unlike numbers of targets.
        batches = DialogueBatches(
            rows, lab.tokenizer, max_length=48, batch_size=4, micro_batch_size=micro, seed=0, too_long="skip"
        )
        engine = start.language_engine(Path(lab.world["checkpoint"]), lab.cfg.optim, lab.cfg.zero, 1)
        before = fit.evaluate_loss(engine, batches.batch_at(0), losses.language_model_loss)["eval/loss"]
        metrics = fit.train_step(engine, batches.batch_at(0), losses.language_model_loss)
        assert metrics["train/loss"] == pytest.approx(before, abs=1e-5)
        found.append((metrics["train/loss"], metrics["train/grad_norm"]))
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def tokenizer_of(world: dict[str, str]) -> Tokenizer:
    """Return the world's tokenizer."""
    return hf_folder.load_tokenizer(Path(world["checkpoint"]))
