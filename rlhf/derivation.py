"""An iteration of PPO derived again: from the checkpoint before it and the store of experience (store.py).

The weights of the newest checkpoint before the step, or of the run's start, learn from the stored iterations in between, as they
did. Then the models judge the stored responses of the step anew (with `old_logprobs=sampler` all but the policy), credit is given
and learned from, and each figure is held against metrics.jsonl, each stored number against the file. On the machine and with as
many ranks and threads as the run had, nothing differs by a bit. The run's folder is only read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain import checkpoint, distributed, kernels, manifest
from llamatrain.best import Best
from llamatrain.config.compose import check, read_settings
from llamatrain.config.program import main
from llamatrain.errors import UserError
from llamatrain.exits import EXIT_FAILURE
from llamatrain.keys import filled, to_dict
from llamatrain.responses import stored
from llamatrain.responses.stored import Stored
from llamatrain.run_files import METRICS, STATUS, Logged, Status
from llamatrain.text_files import read_json, read_lines

from .config import ExperienceConfig
from .guards import Guards
from .held_out import SCORE, SINCE_BEST
from .kept import judge_anew, kept_key
from .kl import Coefficient
from .ppo import credited, learn_from, load_models, parents_of, plan, rollout_prompts
from .ppo_config import PPOConfig
from .store import Wanted, arrays_of, hash_of, ids, judged_in

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Difference:
    """A figure as it was logged and as it comes out again; of stored numbers the two that differ most."""

    name: str
    logged: float
    derived: float

    @property
    def relative(self) -> float:
        """By how much they differ, as a share of the logged one or, where that is smaller, of 0.001."""
        return 0.0 if self.logged == self.derived else abs(self.logged - self.derived) / max(1e-3, abs(self.logged))

    def __str__(self) -> str:
        return f"  {self.name:<32} logged {self.logged:.9g}, derived {self.derived:.9g} ({self.relative:.1e} of it)"


def derive(cfg: ExperienceConfig) -> None:
    """Derive a step again and tell what differs; exit code 1 where something does by more than the tolerance."""
    distributed.setup()
    folder = Path(cfg.folder)
    start, found = differences(folder, cfg.step)
    off = sorted((one for one in found if one.relative != 0), key=lambda one: -one.relative)
    if distributed.is_main():
        since = f"the checkpoint of step {start}" if start else "the models that the run starts from"
        told = f"{len(found) - len(off)} of {len(found)} figures come out to the last bit"
        print("\n".join([f"step {cfg.step} of {folder}, from {since}: {told}", *map(str, off)]))
    if any(one.relative > cfg.tolerance for one in off):
        raise SystemExit(EXIT_FAILURE)


def differences(folder: Path, step: int) -> tuple[int, list[Difference]]:
    """Derive a step of a run again; return the step of the checkpoint that it starts from, and every figure as both are.

    Figures are those of metrics.jsonl but times (and, after a rollback, ppo/since_best); then `experience/<array>`, the stored number that differs most from its
    own. Step 0 is what held-out prompts were before the first iteration.
    """
    cfg, rows, start = settings_of(folder), logged(folder, step), beginning(folder, step)
    kernels.choose(cfg.run.kernels, read_json(folder / STATUS, Status).get("kernels", {}))
    parents = parents_of(cfg)
    inputs, _ = plan(cfg, parents, distributed.world_size())
    key = kept_key(cfg, parents, to_dict(cfg))
    models = load_models(cfg, parents, start > 0, inputs.whole)
    if step == 0:
        return 0, compared(rows[0], inputs.held_out.measure(models)[0])
    kl, guards, best = Coefficient(cfg), Guards(cfg, silent), Best(cfg.run, folder, silent)
    engines = {"policy": models.policy, "critic": models.critic}
    if start:
        state = checkpoint.restore(folder / CHECKPOINTS / f"step_{start:08d}", engines)
        kl.load(state)
        best.load(state)
        for name, engine in engines.items():
            engine.state.set_step(int(state["updates"][name]))
    for iteration in range(start, step):
        wanted = rollout_prompts(cfg, inputs.prompts, iteration)
        file = read_stored(folder, iteration + 1, key, wanted)
        guards.slow_down(file.facts["rollbacks"], engines)
        judged = judged_in(file, wanted)
        if iteration + 1 == step:
            # What the sampler measured is not sampled again.
            rollouts = [replace(one.rollout, sampler_entropies=one.entropy.tolist()) for one in judged]
            judged = judge_anew(cfg, models, rollouts, inputs.context)
        batch, hold = credited(cfg, models, judged, iteration, inputs.context, kl.value)
        metrics = inputs.counts | learn_from(cfg, models, batch, iteration, inputs, hold)
        if not hold:
            kl.adapt(metrics["ppo/kl"], cfg.rollout_prompts)
        # Those in between enter ppo/since_best alone.
        if SCORE in rows[iteration + 1] and (iteration + 1 == step or SINCE_BEST in rows[step]):
            metrics |= inputs.held_out.follow(models, iteration + 1, best)[0]
    if file.facts["rollbacks"]:  # the best one may have been gone by then, and what came after compared with nothing
        rows[step].pop(SINCE_BEST, None)
    arrays = arrays_of(judged, batch) | {"log_ratios": batch.log_ratios[batch.mask].numpy()}
    return start, [
        *compared(rows[step], metrics),
        *(furthest(name, array, arrays[name]) for name, array in file.arrays.items()),
    ]


def silent(line: str) -> None:
    """Say nothing: the run has said it."""


def compared(logged: Mapping[str, float], derived: Mapping[str, float]) -> list[Difference]:
    """Return the logged figures beside those that came out again."""
    return [Difference(name, value, derived.get(name, math.inf)) for name, value in logged.items()]


def furthest(name: str, logged: NDArray[Any], derived: NDArray[Any]) -> Difference:
    """Return where an array differs most from the stored one."""
    place = int(np.abs(logged.astype(np.float64) - derived.astype(np.float64)).argmax())
    return Difference(f"experience/{name}", float(logged[place]), float(derived[place]))


# --- what a run's folder tells -----------------------------------------------------------------------------------


def settings_of(folder: Path) -> PPOConfig:
    """Return the settings of a run of PPO."""
    if not (folder / stored.FOLDER).is_dir():
        raise UserError(f"folder={folder}: need the folder of a run of ppo with {stored.FOLDER}/ in it")
    return check("ppo", PPOConfig, filled(PPOConfig, read_settings(folder / "config.yaml")))


def logged(folder: Path, step: int) -> dict[int, dict[str, float]]:
    """Return what was logged of each step but times; UserError where `step` is none of them."""
    rows: dict[int, dict[str, Any]] = {row["step"]: {**row} for row in read_lines(folder / METRICS, Logged, grows=True)}
    if step not in rows:
        need = f"{min(rows)} to {max(rows)}" if rows else "one, but there is none yet"
        raise UserError(f"step={step}: need a step that {folder / METRICS} has: {need}")
    return {
        number: {name: value for name, value in row.items() if name not in ("step", "time") and "seconds" not in name}
        for number, row in rows.items()
    }


def beginning(folder: Path, step: int) -> int:
    """Return the step of the newest checkpoint from which all iterations up to `step` are stored; 0: the run's start."""
    if step == 0:
        return 0
    there = set(stored.steps(folder))
    saved = [path for path in manifest.published(folder / CHECKPOINTS) if (path / "trainer" / "state.json").is_file()]
    starts = [0, *map(manifest.step_of, saved)]
    derivable = {to for start in starts for to in _unbroken(start, there)}
    if step not in derivable:
        need = f"one of {', '.join(map(str, sorted(derivable)))}" if derivable else "a run that stores its iterations"
        raise UserError(f"step={step}: not all iterations from a kept checkpoint on are still stored; need {need}")
    return max(start for start in starts if step in _unbroken(start, there))


def _unbroken(start: int, there: set[int]) -> range:
    """Return the steps behind a checkpoint up to the first that is not stored."""
    end = start + 1
    while end in there:
        end += 1
    return range(start + 1, end)


def read_stored(folder: Path, step: int, key: Mapping[str, Any], wanted: Wanted) -> Stored:
    """Read a stored iteration; UserError where it was made otherwise than the run's settings say."""
    path = stored.path_of(folder, step)
    found = stored.read(path)
    if found.facts["key"] != hash_of(key, found.facts["rollbacks"]) or found.facts["prompts"] != ids(wanted):
        ranks, had = distributed.world_size(), read_json(folder / STATUS, Status).get("ranks", 1)
        raise UserError(
            f"{path} was made with other settings than {folder / 'config.yaml'} has, from other files, or on another number of "
            f"ranks than {ranks}{f': the run had {had}, need ranks={had}' if had != ranks else ''}"
        )
    return found


if __name__ == "__main__":
    main("experience", ExperienceConfig, derive)
