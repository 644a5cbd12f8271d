"""The store of experience: every iteration's rollouts, verdicts and credit, on disk before they are learned from.

A run that starts again from a checkpoint learns from them: the same weights would sample and judge the same, bit by bit, so
this holds for the same settings on as many ranks. And from the checkpoint before it an iteration can be derived again
(derivation.py). `llamatrain.responses.stored` says what a file holds; rank 0 reads and writes them.

Kept are the iterations since the oldest kept checkpoint, the newest `experience_kept`, and every `experience_every`-th for ever.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamatrain import distributed, manifest
from llamatrain.errors import UserError
from llamatrain.responses import stored
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import Rollout
from llamatrain.responses.stored import Stored
from llamatrain.run import Run

from .experience import Batch, Judged
from .ppo_config import PPOConfig

Wanted = list[tuple[Prompt, int]]  # an iteration's prompts, each with its sample number


class Store:
    """The iterations of a run; `key` is what they depend on beside their number. All ranks call alike."""

    def __init__(self, cfg: PPOConfig, run: Run, key: Mapping[str, Any]) -> None:
        self.cfg, self.run, self.key = cfg, run, key
        self._newest: tuple[int, Stored] | None = None

    def find(self, step: int, wanted: Wanted, rollbacks: int) -> list[Judged] | None:
        """Return the judged rollouts that an interrupted run stored for iteration `step`, on every rank; None without any.

        Where there are none, those of later iterations are deleted: the run takes another course from here on.
        """
        return distributed.broadcast_object(self._find(step, wanted, rollbacks) if self.run.is_main else None)

    def _find(self, step: int, wanted: Wanted, rollbacks: int) -> list[Judged] | None:
        path = stored.path_of(self.run.folder, step)
        try:
            found = stored.read(path)
            if found.facts["key"] == hash_of(self.key, rollbacks) and found.facts["prompts"] == ids(wanted):
                return judged_in(found, wanted)
        except FileNotFoundError:
            pass
        except UserError as error:
            print(f"{error}; the iteration is sampled again", file=sys.stderr, flush=True)
        for later in stored.steps(self.run.folder):
            if later >= step:
                stored.path_of(self.run.folder, later).unlink()
        return None

    def keep(self, step: int, judged: list[Judged], batch: Batch, wanted: Wanted, hold: bool, rollbacks: int) -> None:
        """Write an iteration that is about to be learned from: `judged`, and the batch with the credit that they got."""
        if self.run.is_main:
            facts = {
                "step": step,
                "key": hash_of(self.key, rollbacks),
                "prompts": ids(wanted),
                "kl_coef": batch.kl_coef,
                "held": hold,
                "rollbacks": rollbacks,
                "clip": self.cfg.clip,
            }
            self._newest = step, Stored(facts, arrays_of(judged, batch))
            stored.write(stored.path_of(self.run.folder, step), self._newest[1])

    def add_ratios(self, batch: Batch) -> None:
        """Add how far the policy had moved as it learned from the iteration that was written last."""
        if self._newest is not None:
            step, found = self._newest
            whole = Stored(found.facts, {**found.arrays, "log_ratios": batch.log_ratios[batch.mask].numpy()})
            stored.write(stored.path_of(self.run.folder, step), whole)

    def prune(self, step: int) -> None:
        """Delete the iterations that are not to be kept, after iteration `step`."""
        saved = (
            [manifest.step_of(path) for path in manifest.published(self.run.checkpoints)] if self.run.is_main else []
        )
        every, newest = self.cfg.experience_every, step - self.cfg.experience_kept
        for old in stored.steps(self.run.folder) if saved else ():  # without a checkpoint all is since the start
            if old <= min(saved[0], newest) and not (every and old % every == 0):
                stored.path_of(self.run.folder, old).unlink()


def hash_of(key: Mapping[str, Any], rollbacks: int) -> str:
    """Return the hash of all that an iteration depends on beside its number: after a rollback learning rates are lower."""
    whole = {**key, "ranks": distributed.world_size(), "rollbacks": rollbacks}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def ids(wanted: Wanted) -> list[list[str | int]]:
    """Return the prompts' ids and sample numbers as a file has them."""
    return [[prompt.id, number] for prompt, number in wanted]


def arrays_of(judged: list[Judged], batch: Batch) -> dict[str, NDArray[Any]]:
    """Return the arrays of an iteration's file (`stored`)."""
    rollouts, mask = [one.rollout for one in judged], batch.mask
    per_response = {
        "lengths": np.array([len(r.tokens) for r in rollouts], np.int32),
        "prompt_lengths": np.array([len(r.prompt.tokens) for r in rollouts], np.int32),
        "finished": np.array([r.finished for r in rollouts]),
        "is_answer": np.array([r.is_answer for r in rollouts]),
        "is_adversarial": np.array([r.prompt.is_adversarial for r in rollouts]),
        "gated": batch.gated.numpy(),
        "helpfulness": np.array([one.helpfulness for one in judged], np.float32),
        "safety": np.array([one.safety for one in judged], np.float32),
        "score": batch.combined.numpy(),
        "whitened": batch.credit.whitened.numpy(),
    }
    credit = batch.credit
    per_token: dict[str, Tensor] = {
        "logprobs": batch.logprobs,
        "reference": batch.reference,
        "values": batch.values,
        "rewards": credit.rewards,
        "advantages": credit.advantages,
        "returns": credit.returns,
    }
    if batch.judged is not judged:
        per_token["judged_values"] = torch.nn.utils.rnn.pad_sequence([one.values for one in judged], batch_first=True)
    return {
        **per_response,
        "prompt_tokens": np.array([token for r in rollouts for token in r.prompt.tokens], np.int32),
        "tokens": np.array([token for r in rollouts for token in r.tokens], np.int32),
        "sampler_logprobs": np.array([p for r in rollouts for p in r.sampler_logprobs], np.float32),
        "entropy": torch.cat([one.entropy for one in judged]).numpy(),
        **{name: values[mask].float().numpy() for name, values in per_token.items()},  # (N, R) -> (n,)
    }


def judged_in(found: Stored, wanted: Wanted) -> list[Judged]:
    """Return the judged rollouts that a file was written from."""
    values = "judged_values" if "judged_values" in found.arrays else "values"
    per_token = zip(*(found.each(name) for name in ("logprobs", "reference", values, "entropy")), strict=True)
    facts = zip(
        *(found.arrays[name].tolist() for name in ("finished", "is_answer", "helpfulness", "safety")), strict=True
    )
    sampled = zip(found.each("tokens"), found.each("sampler_logprobs"), strict=True)
    judged = []
    for (prompt, _), (tokens, sampler), own, verdicts in zip(wanted, sampled, facts, per_token, strict=True):
        finished, is_answer, helpfulness, safety = own
        rollout = Rollout(prompt, tokens.tolist(), finished, sampler.tolist(), is_answer)
        judged.append(Judged(rollout, helpfulness, safety, *(torch.from_numpy(one.copy()) for one in verdicts)))
    return judged
