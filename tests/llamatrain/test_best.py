"""The best checkpoint by held-out data: linked, kept, the same after a resume; and training that stops for want of a better one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from launch.found import newest
from llamatrain.best import Best
from llamatrain.description import Headline
from llamatrain.engine.learning import Engine
from llamatrain.errors import UserError
from llamatrain.fit import fit
from llamatrain.keys import decisive
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.run import Run
from llamatrain.stopping import Stopped
from llamatrain.tokenizer import Tokenizer
from sft.config import SFTConfig

from .test_run import OPTIM, STEPS, ZERO, Toy, interrupt, loss_in, run_config

LOSSES = {
    1: 5.0,
    2: 4.0,
    3: 3.0,
    4: 3.5,
    5: 3.2,
    6: 3.1,
    7: 3.3,
    8: 3.4,
}  # held-out, after each step: least after step 3

Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Train:
    """Return what trains a run of a name whose held-out losses are LOSSES."""

    def trained(name: str, during: Callable[[int], None] | None = None, **changes: Any) -> Path:
        values = {"save_every": 0, "keep": 1, "eval_every": 1, "keep_best": True, **changes}
        config = run_config(tmp_path, name=name, **values)
        with Run(config, "test", {"run": asdict(config)}, {}, {"train": "abc"}) as run:
            engine = Engine(Transformer(model_config, seed=0), OPTIM, ZERO, STEPS)
            losses = lambda: {"eval/loss": LOSSES[run.step + 1]}  # noqa: E731  (of the step that is not logged yet)
            fit(engine, Toy(), loss_in(during), run, STEPS, tokenizer, losses)
        return run.folder

    return trained


def there(folder: Path) -> dict[str, Any]:
    """Return which checkpoints there are, and where the links lead."""
    links = {name: (folder / name).readlink().name for name in ("best", "final") if (folder / name).is_symlink()}
    return {"checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()), **links}


def status(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return content


def test_the_best_checkpoint_is_linked_and_kept_and_a_resumed_run_knows_it(train: Train) -> None:
    whole = {"checkpoints": ["step_00000003", "step_00000008"], "best": "step_00000003", "final": "step_00000008"}
    folder = train("whole")
    assert there(folder) == whole and not status(folder)["reason"]
    assert json.loads((folder / "best" / "llamatrain.json").read_text())["evaluated"] == {"eval/loss": LOSSES[3]}
    with pytest.raises(Stopped):
        train("cut", during=interrupt)
    folder = train("cut")  # a run that did not know would call step 6 its best
    assert there(folder) == whole
    assert (folder / "best/model.safetensors").read_bytes() == (
        folder.with_name("whole") / "best/model.safetensors"
    ).read_bytes()
    plain = there(train("plain", keep_best=False))
    assert plain == {"checkpoints": ["step_00000008"], "final": "step_00000008"}


def test_training_stops_early_and_goes_on_where_it_is_given_more_patience(train: Train) -> None:
    early = {"checkpoints": ["step_00000003", "step_00000005"], "best": "step_00000003", "final": "step_00000003"}
    for _ in range(2):  # the same command ends at once
        folder = train("early", patience=2, keep_best=False)
        assert there(folder) == early
        told = status(folder)
        assert (told["state"], told["step"], told["total"]) == ("done", 5, STEPS)
        assert told["reason"].startswith(
            "stopped early at step 5 of 8 (run.patience=2): held-out data were best after step 3 (3.0000) and no better in 2 further"
        )
        assert (
            newest(folder, Headline({"eval/loss": "loss"}), done=True)[1]["eval/loss"] == LOSSES[3]
        )  # that of `final`
    folder = train("early", patience=6)
    assert there(folder) == {**early, "checkpoints": ["step_00000003", "step_00000008"], "final": "step_00000008"}
    assert not status(folder)["reason"]


def test_a_best_checkpoint_that_is_gone_counts_as_never_measured(train: Train, tmp_path: Path) -> None:
    folder = train("run")
    said = list[str]()
    found = Best(run_config(tmp_path, keep_best=True), folder, said.append)
    found.restore({"best": {"step": 3, "value": 3.0, "since": 5}})
    assert (found.step, found.since) == (3, 5) and not said
    found.restore({"best": {"step": 2, "value": 4.0, "since": 1}})  # rolled back to before step 3, and step 2 is pruned
    assert (found.step, found.since) == (0, 0) and not (folder / "best").is_symlink()
    gone = folder / "checkpoints" / "step_00000002"
    assert said == [f"{gone}, the best so far (4.0000), is gone: the next one measured takes its place"]
    assert found.add(4, 9.0)


def test_what_is_no_number_is_never_best(tmp_path: Path) -> None:
    found, nan = Best(run_config(tmp_path, patience=2), tmp_path, print), float("nan")
    told = [scored(found, step, [value, value]) for step, value in enumerate([nan, -2.0, -1.0, -1.0], 1)]
    assert told == [False, True, True, False] and (found.step, found.since) == (3, 1)
    assert not found.exhausted()
    assert not scored(found, 5, [0.0, nan]) and found.exhausted()
    assert not Best(run_config(tmp_path), tmp_path, print).add(1, 0.0)  # neither is asked for


def scored(best: Best, step: int, scores: list[float]) -> bool:
    return best.add(step, fmean(scores), scores)


def around(mean: float, seed: int, count: int = 128) -> list[float]:
    """Return scores of prompts whose answers another policy gives differently: hard to score as the prompt is, and noise."""
    hard, noise = np.random.default_rng(0).normal(0, 3, count), np.random.default_rng(seed).normal(0, 0.5, count)
    return list(mean + hard - hard.mean() + noise - noise.mean())


def test_scores_that_creep_on_within_their_noise_do_not_put_off_the_end(tmp_path: Path) -> None:
    """Paired, a mean difference has a standard error of about 0.06 here; of either mean it is 0.27."""
    found = Best(run_config(tmp_path, patience=3), tmp_path, print)
    told = [scored(found, step, around(0.05 * step / 3, step)) for step in (1, 2, 3, 4)]
    assert told == [True, False, False, False] and (found.step, found.since) == (1, 3)
    assert found.exhausted()
    assert found.stopped_early(4, 9).endswith(
        "held-out data were best after step 1 (0.0167) and no better beyond their noise in 3 further evaluations; "
        "`final` is that checkpoint"
    )


def test_a_clear_gain_counts_and_so_do_small_ones_that_add_up_to_one(tmp_path: Path) -> None:
    found = Best(run_config(tmp_path, patience=4), tmp_path, print)
    told = [scored(found, step, around(mean, step)) for step, mean in enumerate([0.0, 0.3, 0.36, 0.42, 0.48, 0.1], 1)]
    assert told == [True, True, False, False, True, False]  # the fifth is no clear gain over the fourth
    assert (found.step, found.since) == (5, 1)


@pytest.mark.parametrize(("sigmas", "better"), [(1.9, False), (2.05, True)])
def test_the_bound_is_the_interval_of_the_paired_differences(tmp_path: Path, sigmas: float, better: bool) -> None:
    found, differences = Best(run_config(tmp_path, keep_best=True), tmp_path, print), np.array([1.0, -1.0] * 100)
    first = np.random.default_rng(0).normal(0, 10, 200)
    scored(found, 1, list(first))
    error = float(differences.std(ddof=1)) / math.sqrt(200)  # 1.972 of them are the 95 % interval
    assert scored(found, 2, list(first + differences + sigmas * error)) is better


def test_what_prompts_scored_outlives_a_checkpoint_and_one_without_is_compared_by_means(tmp_path: Path) -> None:
    for step in (1, 7):
        (tmp_path / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    found, resumed = (Best(run_config(tmp_path, patience=5), tmp_path, print) for _ in range(2))
    scored(found, 1, around(0.0, 1))
    scored(found, 2, around(0.01, 2))
    resumed.restore(json.loads(json.dumps(found.state())))
    assert resumed == found and (resumed.step, resumed.since) == (1, 1)
    assert [scored(best, 3, around(0.02, 3)) for best in (found, resumed)] == [False, False]
    resumed.restore({})
    assert (resumed.step, resumed.scores) == (0, [])
    resumed.restore({"best": {"step": 7, "value": 0.0, "since": 1}})  # of a version that kept no scores
    assert not scored(resumed, 8, around(-0.01, 8)) and resumed.since == 2
    assert scored(resumed, 9, around(0.01, 9)) and not scored(resumed, 10, around(0.02, 10))


def test_scores_by_other_prompts_or_models_begin_anew(tmp_path: Path) -> None:
    said, high, low = list[str](), around(1.0, 1), around(0.5, 1)
    best = Best(run_config(tmp_path, patience=2), tmp_path, said.append)
    assert best.add(5, fmean(high), high, "these")
    assert not best.add(10, fmean(low), low, "these") and not said
    assert best.add(15, fmean(low), low, "others")
    assert said == [
        "the best so far (1.0000, after step 5) was measured otherwise than this one (0.5000), which takes its place"
    ]
    assert best.add(20, fmean(high), high, "others") and best.by == "others"


def test_a_score_without_bounds_is_never_best(tmp_path: Path) -> None:
    best, finite = Best(run_config(tmp_path, patience=2), tmp_path, print), around(0.0, 1)
    assert not best.add(5, float("-inf"), [float("-inf"), *finite[1:]])
    assert best.add(10, fmean(finite), finite) and not best.add(15, float("inf"), [float("inf"), *finite[1:]])


def test_what_is_measured_changes_the_result_of_a_run_that_stops_by_it() -> None:
    flat = {"run.eval_every": 5, "eval.0": "held_out.jsonl", "run.patience": None, "run.keep": 2}
    assert decisive(SFTConfig, flat) == {"run.patience": None}
    assert decisive(SFTConfig, {**flat, "run.patience": 3}) == {
        "run.eval_every": 5,
        "eval.0": "held_out.jsonl",
        "run.patience": 3,
    }


def test_patience_needs_held_out_data(tmp_path: Path) -> None:
    run_config(tmp_path, patience=1).need_held_out(True, "x")
    with pytest.raises(UserError, match=r"run\.patience=1: need held-out dialogues"):
        run_config(tmp_path, patience=1).need_held_out(False, "held-out dialogues")
    with pytest.raises(UserError, match=r"run\.patience=0: need 1 or more, or null"):
        run_config(tmp_path, patience=0)
