"""PPO on held-out prompts: what is measured, and that measuring changes nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llamatrain import hf_folder
from llamatrain.errors import UserError
from llamatrain.generation import generate
from llamatrain.responses.prompts import load_prompts
from llamatrain.settings import Sampling
from rlhf.held_out import HeldOut, divided
from rlhf.ppo import dry_run

from . import plain
from .small import composed, five_models, measures, ppo, weights
from .worlds import read_jsonl, write_prompts


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_and_scores_are_those_of_a_plain_loop(
    temperature: float, world: dict[str, str], tmp_path: Path, prompts_eval: str
) -> None:
    cfg = composed(world, tmp_path, "ppo", prompts_eval, f"eval_temperature={temperature}", "micro_batch_size=4")
    models, tokenizer = five_models(cfg, world), hf_folder.load_tokenizer(Path(world["checkpoint"]))
    prompts = load_prompts(cfg.prompts_eval, tokenizer, 128, 8, None, "stop", print)
    found, scores = HeldOut(cfg, tokenizer, 128, [], print).measure(models)
    sampling = Sampling(temperature, 1.0, 8, 0, "ppo_eval")
    by_kind: dict[str, list[list[float]]] = {"harmless": [], "adversarial": []}
    combined, lengths = [], []
    for prompt in prompts:
        [answer] = generate(models.policy.module, [prompt.tokens], [(prompt.id, 0)], sampling, tokenizer.eos_id, 1)
        pair = [plain.own_score(m, prompt.tokens, answer.tokens) for m in (models.helpfulness, models.safety)]
        by_kind["adversarial" if prompt.is_adversarial else "harmless"].append([*pair, pair[1] < -1.7346])
        combined.append(pair[1] if prompt.is_adversarial or pair[1] < -1.7346 else pair[0])
        lengths.append(len(answer.tokens))
    for kind, rows in by_kind.items():
        for name, values in zip(("helpfulness", "safety", "gated"), zip(*rows, strict=True), strict=True):
            assert found[f"eval/{name}_{kind}"] == pytest.approx(sum(values) / len(values), abs=1e-5)
    assert found["eval/response_length"] == sum(lengths) / 6
    if found["eval/finished"] == 0:  # no answer is a finished one, so that none is held back
        assert found["eval/score_combined"] == pytest.approx(sum(combined) / 6, abs=1e-5)
        assert scores == pytest.approx(combined, abs=1e-5)


def test_measuring_changes_nothing_and_is_done_when_it_is_due(
    world: dict[str, str], tmp_path: Path, prompts_eval: str
) -> None:
    without = ppo(world, tmp_path, "without", "iterations=3", "run.eval_every=2", "run.keep_best=false")
    folder = ppo(world, tmp_path, "with", "iterations=3", prompts_eval, "run.eval_every=2", "eval_temperature=1")
    first, second = weights(without), weights(folder)
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = measures(folder)
    assert [row["step"] for row in rows if "eval/score_combined" in row] == [0, 2, 3]
    timed = [row["step"] for row in read_jsonl(folder / "metrics.jsonl") if "ppo/seconds_evaluate" in row]
    assert timed == [2, 3]
    own = [{k: v for k, v in row.items() if "eval/" not in k and k != "ppo/since_best"} for row in rows[1:]]
    assert own == measures(without)
    lineage = json.loads((folder / "final" / "llamatrain.json").read_text())
    assert lineage["evaluated"] == {k: v for k, v in rows[-1].items() if "eval/" in k}


def test_prompts_that_are_learned_from_are_refused(world: dict[str, str], tmp_path: Path, prompts_eval: str) -> None:
    assert "6 held-out prompts, answered every 20" in dry_run(
        composed(world, tmp_path, "a", prompts_eval, "iterations=3"), 1
    )
    both = f"prompts_eval={world['prompts']}"
    with pytest.raises(UserError, match=r"prompts_eval: 12 of 12 prompts are also in prompts \(the first is 'p0'\)"):
        dry_run(composed(world, tmp_path, "b", both, "iterations=3"), 1)


def test_bad_held_out_prompts_are_skipped_where_bad_rows_says_so(world: dict[str, str], tmp_path: Path) -> None:
    write_prompts(tmp_path / "all.jsonl", 18)
    good = (tmp_path / "all.jsonl").read_text().splitlines(keepends=True)[12:]
    (tmp_path / "mixed.jsonl").write_text("".join([*good, '{"id": "p99"}\n']))
    mixed = [f"prompts_eval=[{tmp_path / 'mixed.jsonl'}]", "iterations=3"]
    with pytest.raises(UserError, match=r"mixed\.jsonl:7: .*bad_rows=skip skips such rows"):
        dry_run(composed(world, tmp_path, "a", *mixed), 1)
    told = dry_run(composed(world, tmp_path, "b", *mixed, "bad_rows=skip"), 1)
    assert "1 of 7 rows skipped, as they cannot be used:" in told and "6 held-out prompts, answered" in told


def test_some_prompts_are_held_out_where_no_file_is_given(world: dict[str, str], tmp_path: Path) -> None:
    cfg = composed(world, tmp_path, "ppo")
    tokenizer = hf_folder.load_tokenizer(Path(world["checkpoint"]))
    write_prompts(tmp_path / "all.jsonl", 60)
    prompts = load_prompts([str(tmp_path / "all.jsonl")], tokenizer, 128, 8, None, "stop", print)
    [(few, two), (fewer, most)] = (divided(prompts, count) for count in (2, 30))
    assert len(two) == 2 and len(most) == 6 and {p.id for p in two} < {p.id for p in most}  # at most a tenth
    assert [p for p in prompts if p not in two] == few and len(fewer) == 54
    twice = [*prompts, *(replace(p, id=f"{p.id}/again") for p in prompts)]
    learned, held = divided(twice, 8)
    assert not {str(p.messages) for p in learned} & {str(p.messages) for p in held}  # a question is on one side
    said = list[str]()
    assert HeldOut(replace(cfg, hold_out=2), tokenizer, 128, prompts, said.append).learned_from == few
    assert said == ["2 held-out prompts, answered every 20 iterations"]


def test_held_out_answers_are_scored_by_models_of_their_own(
    world: dict[str, str], tmp_path: Path, prompts_eval: str
) -> None:
    """With the two models exchanged the scores are each other's, and what is learned stays the same."""
    more = ["iterations=2", "run.eval_every=2", prompts_eval]
    apart = [f"eval_helpfulness={world['safety']}", f"eval_safety={world['helpfulness']}"]
    one, other = ppo(world, tmp_path, "one", *more), ppo(world, tmp_path, "other", *more, *apart)
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    cfg = composed(world, tmp_path, "ppo", prompts_eval)
    models = five_models(cfg, world)
    exchanged = replace(models, helpfulness=models.safety, safety=models.helpfulness)
    tokenizer = hf_folder.load_tokenizer(Path(world["checkpoint"]))
    expected, _ = HeldOut(cfg, tokenizer, 128, [], print).measure(exchanged)
    assert measures(other)[0] == pytest.approx({"step": 0, **expected}, abs=1e-5)
    assert measures(one)[0] != measures(other)[0]


PATIENT = ["iterations=6", "run.eval_every=1", "run.patience=2", "run.save_every=0", "run.keep=1"]


def planted(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have held-out prompts score so, each time; above 2 as a policy does that answers two of six otherwise."""
    course = iter(scores)

    def measure(*_: object) -> tuple[dict[str, float], list[float]]:
        mean = next(course)
        return {"eval/score_combined": mean}, [mean - 1, mean + 1, *[mean] * 4] if mean > 2 else [mean] * 6

    monkeypatch.setattr(HeldOut, "measure", measure)


def test_the_run_stops_by_held_out_scores_and_ends_with_the_best(
    world: dict[str, str], tmp_path: Path, prompts_eval: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted([0.0, 1.0, 2.0, 1.5, 2.1], monkeypatch)  # the last is better, but within its noise
    folder = ppo(world, tmp_path, "ppo", prompts_eval, *PATIENT)
    assert [(row["step"], row.get("ppo/since_best")) for row in measures(folder)] == [
        (0, None), (1, 0), (2, 0), (3, 1), (4, 2)
    ]  # fmt: skip
    for link in ("final", "best"):
        assert (folder / link).resolve().name == "step_00000002"
    assert (
        ppo(world, tmp_path, "ppo", prompts_eval, *PATIENT) == folder
    )  # nothing is left to be done: nothing is measured again


def test_a_run_that_is_resumed_between_evaluations_stops_where_an_undisturbed_one_does(
    world: dict[str, str], tmp_path: Path, prompts_eval: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows what each prompt scored: by the mean alone the fourth iteration would be the best."""
    more = [prompts_eval, *PATIENT, "run.eval_every=2", "iterations=8", "run.save_every=3", "run.keep=0"]
    scores = [0.0, 2.0, 2.1, 2.1]  # at first and after iterations 2, 4 and 6
    planted(scores, monkeypatch)
    whole, cut = ppo(world, tmp_path, "whole", *more), tmp_path / "cut"
    assert [row["step"] for row in measures(whole)][-1] == 6
    shutil.copytree(whole, cut, symlinks=True)
    shutil.rmtree(cut / "checkpoints" / "step_00000006")
    for link in ("final", "best"):
        (cut / link).unlink()
    planted(scores[2:], monkeypatch)
    ppo(world, tmp_path, "cut", *more)
    assert measures(cut) == measures(whole)
    first, second = weights(whole), weights(cut)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for folder in (whole, cut):
        assert {(folder / link).resolve().name for link in ("final", "best")} == {"step_00000002"}
    states = [json.loads((one / "checkpoints/step_00000006/trainer/state.json").read_text()) for one in (whole, cut)]
    assert states[0] == states[1] and states[0]["best"]["scores"] == [2.0] * 6


def test_stopping_early_needs_held_out_prompts(world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"run\.patience=2: need held-out prompts to stop early by \(prompts_eval or hold_out\)"
    ):
        composed(world, tmp_path, "ppo", "run.patience=2")
