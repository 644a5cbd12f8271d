"""Each guard of PPO: a planted cause trips it, it names itself, and a run that rolls back comes to its end."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.tokenizer import Tokenizer
from rlhf.experience import Models
from rlhf.guards import Guards
from rlhf.learning import learn

from .small import composed, measures, ppo, weights
from .worlds import ending, read_jsonl

HEALTHY = {
    "ppo/kl_per_token": 0.05,
    "ppo/entropy": 2.0,
    "ppo/response_length": 20.0,
    "ppo/finished": 0.95,
    "ppo/approx_kl": 1e-4,
    "ppo/value_loss": 0.2,
    "ppo/sampler_mismatch_mean": 1e-6,
}
CALM = ["guards.kl_per_token=null", "guards.entropy_fraction=null", "guards.length_growth=null", "guards.ratio=null"]


@pytest.mark.parametrize(
    ("guard", "metric", "value", "threshold"),
    [
        ("kl_per_token", "ppo/kl_per_token", 1.01, 1.0),
        ("entropy_fraction", "ppo/entropy", 0.19, 0.2),
        ("length_growth", "ppo/response_length", 60.5, 60.0),
        ("unfinished_rise", "ppo/finished", 0.44, 0.45),
        ("ratio", "ppo/approx_kl", 0.21, 0.2),
        ("value_loss", "ppo/value_loss", 20.5, 20.0),
        ("sampler_mismatch", "ppo/sampler_mismatch_mean", 1.1e-3, 1e-3),
    ],
)
def test_each_guard_knows_its_limit(
    guard: str, metric: str, value: float, threshold: float, world: dict[str, str], tmp_path: Path
) -> None:
    guards = Guards(composed(world, tmp_path, "ppo"), print)
    assert guards.check(HEALTHY) is None
    near = threshold + 0.01 * (HEALTHY[metric] - threshold)
    assert guards.check({**HEALTHY, metric: near}) is None
    found = guards.check({**HEALTHY, metric: value})
    assert found is not None
    assert (found.guard, found.metric, found.value, found.steps) == (guard, metric, value, 2)  # the near one, too
    assert found.threshold == pytest.approx(threshold)
    if guard != "sampler_mismatch":
        off = Guards(composed(world, tmp_path, "ppo", f"guards.{guard}=null"), print)
        assert off.check(HEALTHY) is None
        assert off.check({**HEALTHY, metric: value}) is None


def test_a_checkpoint_keeps_what_the_guards_compare_with(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path, "ppo")
    guards, resumed = Guards(cfg, print), Guards(cfg, print)
    guards.check(HEALTHY)
    guards.check({**HEALTHY, "ppo/entropy": 0.5})
    resumed.load(json.loads(json.dumps(guards.state())))
    found = resumed.check({**HEALTHY, "ppo/entropy": 0.1})
    assert found is not None
    assert (found.guard, found.threshold, found.steps) == ("entropy_fraction", pytest.approx(0.2), 2)
    resumed.load({})
    assert resumed.check({**HEALTHY, "ppo/entropy": 0.1}) is None  # the beginning of another run


def test_precision_decides_what_mismatch_is_rounding(world: dict[str, str], tmp_path: Path) -> None:
    rounded = {**HEALTHY, "ppo/sampler_mismatch_mean": 0.02}
    assert Guards(composed(world, tmp_path, "ppo", "zero=stage2", "zero.dtype=bfloat16"), print).check(rounded) is None
    assert Guards(composed(world, tmp_path, "ppo"), print).check(rounded) is not None


def test_a_guard_that_watches_in_vain_says_so_once(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path, "ppo", "sampling.max_new_tokens=60")
    told = list[str]()
    Guards(cfg, told.append).check({**HEALTHY, "ppo/response_length": 19.9, "ppo/finished": 0.51})
    assert told == []
    guards = Guards(cfg, told.append)
    for _ in range(2):
        assert guards.check({**HEALTHY, "ppo/finished": 0.5}) is None
    assert told == [
        "guards.length_growth=3 has no effect: its limit, by the first iteration, is 60, and ppo/response_length is never above 60",
        "guards.unfinished_rise=0.5 has no effect: its limit, by the first iteration, is 0, and ppo/finished is never below 0",
    ]
    off = composed(world, tmp_path, "ppo", "guards.length_growth=null", "guards.unfinished_rise=0.4")
    Guards(off, told.append).check({**HEALTHY, "ppo/finished": 0.5})
    assert len(told) == 2


# --- planted causes ----------------------------------------------------------------------------------------------


def after_learning(do: Callable[[Models, int], None]) -> Callable[..., dict[str, float]]:
    """Return `learn` with something done to the models after an iteration."""

    def learned(cfg: Any, models: Models, batch: Any, iteration: int, *rest: Any) -> dict[str, float]:
        found = learn(cfg, models, batch, iteration, *rest)
        do(models, iteration)
        return found

    return learned


def scaled(engine: Engine, name: str, factor: float) -> None:
    """Multiply a weight of a model in training."""
    with torch.no_grad():
        dict(engine.module.named_parameters())[name].mul_(factor)


@contextmanager
def stale(engine: Engine) -> Iterator[Any]:
    """Give the model for generation that was there first, as an engine that never hears of new weights."""
    if not hasattr(engine, "first_model"):
        engine.first_model = copy.deepcopy(engine.module)  # type: ignore[attr-defined]
    with torch.no_grad():
        yield engine.first_model


def stopped(world: dict[str, str], folder: Path, *more: str) -> tuple[str, dict[str, Any]]:
    """Return why a run of four iterations stopped, and its incident."""
    with pytest.raises(UserError) as found:
        ppo(world, folder, "ppo", "iterations=4", "run.save_every=1", *more)
    assert not (folder / "ppo" / "final").exists()
    return str(found.value), read_jsonl(folder / "ppo" / "incidents.jsonl")[-1]


@pytest.mark.parametrize("guard", ["kl_per_token", "ratio", "value_loss"])
def test_an_absurd_learning_rate_trips(guard: str, world: dict[str, str], tmp_path: Path) -> None:
    calm = [key for key in CALM if guard not in key]
    rate = "critic_optim.lr=3" if guard == "value_loss" else "optim.lr=0.3"
    why, incident = stopped(world, tmp_path, rate, "kl_coef=0", *calm)
    assert f"(guards.{guard}): " in why
    assert incident["guard"] == guard
    assert incident["value"] > incident["threshold"]
    assert ("critic_optim.lr" if guard == "value_loss" else "optim.lr") in incident["try"]


def test_a_collapsed_policy_trips(world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harder = after_learning(lambda models, _: scaled(models.policy, "lm_head.weight", 200.0))
    monkeypatch.setattr("rlhf.ppo.learn", harder)
    why, incident = stopped(world, tmp_path, *CALM[:1], *CALM[2:], "guards.sampler_mismatch=9")
    assert why.startswith("iteration 2: ppo/entropy is ")
    assert incident["guard"] == "entropy_fraction"


@pytest.mark.parametrize("guard", ["length_growth", "unfinished_rise"])
def test_responses_without_an_end_trip(
    guard: str,
    world: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_config: ModelConfig,
    tokenizer: Tokenizer,
) -> None:
    endless = after_learning(lambda models, _: scaled(models.policy, "lm_head.weight", 0.0))
    monkeypatch.setattr("rlhf.ppo.learn", endless)
    other = "unfinished_rise" if guard == "length_growth" else "length_growth"
    calm = [*CALM[:2], *CALM[3:], f"guards.{other}=null"]
    _, incident = stopped(ending(world, tmp_path, model_config, tokenizer, eagerness=3.0), tmp_path, *calm)
    assert incident["guard"] == guard
    assert incident["step"] == 2


@pytest.mark.parametrize("old", ["policy", "sampler"])
def test_a_sampler_with_stale_weights_trips(
    old: str, world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "generating", stale)
    why, incident = stopped(world, tmp_path, f"old_logprobs={old}")
    assert incident["guard"] == "sampler_mismatch"
    assert "the model that samples is not the one that is trained" in why


def test_what_is_not_finite_trips(world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "rlhf.ppo.learn", after_learning(lambda models, _: scaled(models.critic, "score.weight", float("nan")))
    )
    why, incident = stopped(world, tmp_path)
    assert " is nan: lower optim.lr or critic_optim.lr" in why
    assert (incident["guard"], incident["value"], incident["threshold"]) == ("finite", "nan", None)


# --- what becomes of the run -------------------------------------------------------------------------------------


def test_a_stopped_run_keeps_all_and_goes_on_where_it_may(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["iterations=4", "run.save_every=1", "run.keep=0"]
    clean = ppo(world, tmp_path, "clean", *more)
    monkeypatch.setattr("rlhf.ppo.learn", blown_up_once(at=2))
    with pytest.raises(UserError, match=r"iteration 3: .*guards\.value_loss.*guards\.action=rollback"):
        ppo(world, tmp_path, "ppo", *more)
    monkeypatch.setattr("rlhf.ppo.learn", learn)
    kept = sorted(path.name for path in (tmp_path / "ppo" / "checkpoints").iterdir())
    assert kept == ["step_00000001", "step_00000002"]
    assert read_jsonl(tmp_path / "ppo" / "metrics.jsonl")[-1]["ppo/value_loss"] == 1e6  # to be looked at
    folder = ppo(world, tmp_path, "ppo", *more, "guards.value_loss=40")
    assert measures(folder) == measures(clean)
    assert all(torch.equal(a, b) for a, b in zip(weights(folder).values(), weights(clean).values(), strict=True))


def blown_up_once(at: int, rising: tuple[int, ...] = ()) -> Callable[..., dict[str, float]]:
    """Return `learn` whose critic's loss blows up in iteration `at`, once, after it came near it in those `rising`."""
    done: list[int] = []

    def learned(cfg: Any, models: Models, batch: Any, iteration: int, *rest: Any) -> dict[str, float]:
        found = learn(cfg, models, batch, iteration, *rest)
        if iteration in (*rising, at) and not done:
            found["ppo/value_loss"] = 1e6 if iteration == at else 15.0
            done.extend([at] * (iteration == at))
        return found

    return learned


def test_a_rollback_goes_to_the_last_good_checkpoint_and_on_more_slowly(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iterations 3 (half as far) and 4 are bad: checkpoint 2 is the last good one, that of 3 is not."""
    more = ["iterations=5", "run.save_every=1", "run.keep=0", "guards.action=rollback", "samples_every=1"]
    monkeypatch.setattr("rlhf.ppo.learn", blown_up_once(at=3, rising=(2,)))
    folder = ppo(world, tmp_path, "ppo", *more)
    rows = measures(folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["ppo/lr"] for row in rows] == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4]
    assert [row["ppo/critic_lr"] for row in rows] == [1e-3, 1e-3, 5e-4, 5e-4, 5e-4]
    assert max(row["ppo/value_loss"] for row in rows) < 10
    [incident] = read_jsonl(folder / "incidents.jsonl")
    wanted = {"guard": "value_loss", "step": 4, "first_step": 3, "back_to": 2, "rolled_back": True}
    assert {key: incident[key] for key in wanted} == wanted
    steps = [row["step"] for row in read_jsonl(folder / "samples.jsonl")]
    assert steps == sorted(steps)
    assert len(steps) == 5 * 8

    # A run that is resumed behind it goes on as slowly.
    for name in ("step_00000004", "step_00000005"):
        shutil.rmtree(folder / "checkpoints" / name)
    (folder / "final").unlink()
    again = ppo(world, tmp_path, "ppo", *more)
    assert measures(again) == rows


def test_too_many_rollbacks_end_the_run(world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(cfg: Any, models: Models, batch: Any, iteration: int, *rest: Any) -> dict[str, float]:
        return {**learn(cfg, models, batch, iteration, *rest), **({"ppo/value_loss": 30.0} if iteration else {})}

    monkeypatch.setattr("rlhf.ppo.learn", bad)
    with pytest.raises(UserError, match=r"rolled back 1 times, guards\.max_rollbacks=1"):
        ppo(world, tmp_path, "ppo", "iterations=3", "guards.action=rollback", "guards.max_rollbacks=1")
    rows = read_jsonl(tmp_path / "ppo" / "incidents.jsonl")
    assert [row["rolled_back"] for row in rows] == [True, False]


def test_a_rollback_without_an_old_checkpoint_ends_the_run_like_a_stop(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iterations 3 (half as far) and 4 are bad, and of the checkpoints only that of 3 is kept."""
    monkeypatch.setattr("rlhf.ppo.learn", blown_up_once(at=3, rising=(2,)))
    why, incident = stopped(world, tmp_path, "run.keep=1", "guards.action=rollback")
    assert why.startswith("iteration 4: ppo/value_loss is 1e+06, beyond 20 (guards.value_loss): the critic diverges")
    assert "; nothing to roll back to: it starts at step 3, and no checkpoint in " in why
    assert "raise run.keep" in why
    wanted = {"guard": "value_loss", "step": 4, "value": 1e6, "threshold": 20.0, "back_to": 3, "rolled_back": False}
    assert {key: incident[key] for key in wanted} == wanted
    assert read_jsonl(tmp_path / "ppo" / "metrics.jsonl")[-1]["ppo/value_loss"] == 1e6  # to be looked at
    assert [path.name for path in (tmp_path / "ppo" / "checkpoints").iterdir()] == ["step_00000003"]
