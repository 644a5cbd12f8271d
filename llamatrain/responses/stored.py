"""Experience on disk: what an iteration of PPO learned from, a file per iteration, read without torch.

    runs/<name>/experience/step_00000007.safetensors

A file is a safetensors file whose metadata has one entry, `facts`, JSON: step, key (the hash of all that its numbers depend
on), prompts ([id, sample number] of each response), kl_coef, held (only the critic learned), rollbacks (those that the run had
had) and clip.

Shapes: N responses, n response tokens of all of them, one response after the other, m prompt tokens likewise. float32 unless said.
    (N,)  lengths, prompt_lengths int32; finished, is_answer, is_adversarial, gated bool; helpfulness, safety, score (the two
          combined: raw logits, as is all that reward models give), whitened (the score as it is rewarded)
    (m,)  prompt_tokens int32
    (n,)  tokens int32; sampler_logprobs, logprobs (the policy's, or the sampler's again), reference, entropy, values, rewards,
          advantages (whitened), returns;
          judged_values, only where the critic's head was rescaled to the batch: the values before it;
          log_ratios, once the policy has learned: its log-probability minus `logprobs` as each token was last learned from
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamatrain import atomic
from llamatrain.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
FOLDER = "experience"


@dataclass(frozen=True)
class Stored:
    """An iteration's file: its facts and its arrays by name, as above."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def each(self, name: str) -> list[NDArray[Any]]:
        """Return an array of tokens response by response."""
        import numpy as np  # here and below, because to list the files needs neither

        lengths = self.arrays["prompt_lengths" if name == "prompt_tokens" else "lengths"]
        return np.split(self.arrays[name], np.cumsum(lengths)[:-1])


def path_of(run: Path, step: int) -> Path:
    """Return the file of the iteration that ends as `step`, in a run's folder."""
    return run / FOLDER / f"step_{step:08d}.safetensors"


def steps(run: Path) -> list[int]:
    """Return the steps that a run's folder has files of, in order."""
    names = (path.stem.removeprefix("step_") for path in (run / FOLDER).glob("step_*.safetensors"))
    return sorted(int(name) for name in names if name.isdigit())


def write(path: Path, stored: Stored) -> None:
    """Write an iteration's file: it appears whole, or takes the place of an earlier one."""
    from safetensors.numpy import save

    path.parent.mkdir(exist_ok=True)
    atomic.write_bytes(path, save(dict(stored.arrays), {"facts": json.dumps(dict(stored.facts))}))


def read(path: Path) -> Stored:
    """Read an iteration's file; FileNotFoundError where there is none, UserError where it is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            found = Stored(facts, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
        tokens, count = int(found.arrays["lengths"].sum()), len(facts["prompts"])
        if count == len(found.arrays["lengths"]) and all(
            len(found.arrays[name]) == tokens for name in ("tokens", "values")
        ):
            return found
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    raise UserError(f"{path} is damaged: its arrays differ in length")
