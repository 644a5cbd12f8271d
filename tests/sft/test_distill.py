"""The program `distill` on a tiny untrained world: what is sampled, what is scored, what is kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamatrain import hf_folder
from llamatrain.chat import encode_dialogue, encode_prompt
from llamatrain.config.compose import compose
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.responses.prompts import Prompt
from llamatrain.responses.rollouts import Rollout, sample_rollouts
from llamatrain.tokenizer import Tokenizer
from sft.config import DistillConfig
from sft.distill import REASONS, Answer, distill, distillation_metrics, guided, in_words, preprompt_of, verdict
from toyworld.deeds import CARE, STEPS

from ..rlhf.worlds import make_world, overrides, read_jsonl

SMALL = ["sampling.max_new_tokens=12", "samples_per_prompt=6", "chunk_pairs=12", "preprompts=toyworld"]
CATEGORY = "unqualified_advice"


@pytest.fixture
def world(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """Checkpoints and prompts, of which the adversarial ones have categories by turns."""
    made = make_world(tmp_path / "world", model_config, tokenizer)
    path = tmp_path / "world" / "prompts.jsonl"
    rows = read_jsonl(path)
    for number, row in enumerate(rows):
        row["meta"] = {"category": CATEGORY if number % 2 else "other"}
    write_rows(path, rows)
    return {key: made[key] for key in ("checkpoint", "safety", "prompts")}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> dict[tuple[str, int, bool], Rollout]:
    """Let the untrained model's responses end, but some, and heed a preprompt; return them by prompt, number and whether one was there."""
    sampled: dict[tuple[str, int, bool], Rollout] = {}

    def ends(model: Any, prompts: list[Prompt], numbers: list[int], *args: Any, **kwargs: Any) -> list[Rollout]:
        made = []
        for i, one in enumerate(sample_rollouts(model, prompts, numbers, *args, **kwargs)):
            told = one.prompt.messages[0]["role"] == "system"  # an untrained model answers by the noise alone
            tokens = [*(reversed(one.tokens[:5]) if told and i % 3 else one.tokens[:5]), tokenizer.eos_id]
            made.append(replace(one, tokens=tokens, finished=True, is_answer=True) if i % 7 else one)
            sampled[one.prompt.id, numbers[i], told] = made[-1]
        return made

    monkeypatch.setattr("sft.distill.sample_rollouts", ends)
    return sampled


def run(
    world: dict[str, str], folder: Path, name: str, *more: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Distil; return what was kept and what was refused."""
    distill(compose("distill", DistillConfig, overrides(world, folder, name, *SMALL, *more)))
    kept, refused = (read_jsonl(folder / name / f"{file}.jsonl") for file in ("distilled", "refused"))
    return kept, refused


def test_what_is_kept_beats_the_original_and_says_nothing_of_the_preprompt(
    world: dict[str, str], tmp_path: Path, answering: dict[tuple[str, int, bool], Rollout], tokenizer: Tokenizer
) -> None:
    kept, refused = run(world, tmp_path, "d")
    assert len(kept) + len(refused) == 4 * 6  # a third of the twelve prompts is adversarial
    assert kept and all(row["safety_score"] > row["original_safety_score"] for row in kept)
    judge = hf_folder.load_model(Path(world["safety"]))

    def judged(read: list[int]) -> float:
        with torch.no_grad():
            return float(judge(torch.tensor([read]))[0, -1].sigmoid())

    assert {prompt for prompt, _, _ in answering} == {f"p{i}" for i in range(0, 12, 3)}
    for row in kept[:4]:
        dialogue, mask = encode_dialogue(row["messages"], tokenizer, row["loss"])
        assert [m["role"] for m in row["messages"]] == ["user", "assistant"] and row["preprompt"] not in str(
            row["messages"]
        )
        assert (
            tokenizer.decode([t for t, m in zip(dialogue, mask, strict=True) if m]).strip()
            == row["messages"][-1]["content"]
        )
        answer = answering[row["prompt_id"], row["sample"], True]
        assert row["preprompt"] in answer.prompt.messages[0]["content"]
        plain = encode_prompt(row["messages"][:1], tokenizer)
        assert judged(plain + answer.tokens) == pytest.approx(row["safety_score"], abs=1e-4)  # read as users will ask
        assert judged(answer.prompt.tokens + answer.tokens) != pytest.approx(row["safety_score"], abs=1e-3)
    assert list(read_rows(tmp_path / "d" / "distilled.jsonl", DialogueRow))
    assert Counter(row["reason"] for row in refused).keys() <= REASONS.keys()
    metrics = read_jsonl(tmp_path / "d" / "metrics.jsonl")[-1]
    assert metrics["distill/kept"] == len(kept)
    assert sum(metrics[f"distill/refused_{reason}"] for reason in REASONS) == len(refused)
    for row in (*kept, *refused):
        assert (row["preprompt"] == STEPS[CATEGORY]) == (row["category"] == CATEGORY)
        assert row["preprompt"] in (*STEPS.values(), *CARE)
    every, none = run(world, tmp_path, "ungated", "require_better=false")
    finished = [row for row in (*kept, *refused) if row.get("reason") != "unfinished"]
    assert len(every) >= len(finished) and {row["reason"] for row in none} <= {"unfinished"}


def test_an_interrupted_run_ends_with_the_same_bytes(
    world: dict[str, str],
    tmp_path: Path,
    answering: dict[tuple[str, int, bool], Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(world, tmp_path, "whole")
    ends, calls = __import__("sft.distill", fromlist=["x"]).sample_rollouts, []

    def dies(*args: Any, **kwargs: Any) -> list[Rollout]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ends(*args, **kwargs)  # type: ignore[no-any-return]

    monkeypatch.setattr("sft.distill.sample_rollouts", dies)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path, "again")
    assert not (tmp_path / "again" / "distilled.jsonl").exists()
    run(world, tmp_path, "again")
    assert len(calls) == 2 + 1  # one chunk of two was kept
    for file in ("distilled.jsonl", "refused.jsonl"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_prompt_without_room_beside_the_preprompt_is_refused_and_counted(
    world: dict[str, str], tmp_path: Path, answering: dict[tuple[str, int, bool], Rollout]
) -> None:
    long = "word " * 40
    kept, refused = run(world, tmp_path, "d", f'preprompts.generic=["{long}"]')
    assert {row["category"] for row in kept} <= {CATEGORY}
    too_long = [row for row in refused if row["reason"] == "too_long"]
    assert {row["category"] for row in too_long} == {"other"} and len(too_long) == 2 * 6
    assert all("safety_score" not in row and row["response"] == "" for row in too_long)


def test_what_cannot_be_distilled_is_named(world: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"refused\.jsonl\): need other preprompts"):
        run(world, tmp_path, "d", "sampling.max_new_tokens=1")
    assert read_jsonl(tmp_path / "d" / "refused.jsonl")
    harmless = tmp_path / "harmless.jsonl"
    write_rows(harmless, [row for row in read_jsonl(tmp_path / "world" / "prompts.jsonl") if not row["is_adversarial"]])
    with pytest.raises(UserError, match=r"all 8 are harmless, need prompts with is_adversarial: true"):
        run({**world, "prompts": f"[{harmless}]"}, tmp_path, "e")
    for override, need in (
        ("preprompts.generic=[]", r"preprompts\.generic=\[\]: need at least one"),
        ("preprompts.categories.other=' '", "preprompts.categories.other=' ': need a text"),
        ("preprompts.generic=['[INST] x']", r"preprompts\.generic\.0\[0\]\.content: holds the chat format's tag"),
        ("sampling.temperature=0", "samples_per_prompt=6: need 1 with sampling.temperature=0"),
    ):
        with pytest.raises(UserError, match=need):
            run(world, tmp_path, "f", override)


def test_the_gate_asks_for_a_better_score_of_another_finished_answer() -> None:
    poor, good, cut = Answer("a", -1.0, True), Answer("b", 1.0, True), Answer("c", 2.0, False)
    assert verdict(poor, good, True) == "kept"
    assert verdict(good, poor, True) == verdict(good, good._replace(text="other"), True) == "no_better"
    assert verdict(good, good._replace(safety=1.001), True) == "equal"  # by rounding alone
    assert verdict(poor, cut, True) == verdict(cut, good, True) == verdict(poor, cut, False) == "unfinished"
    assert verdict(good, poor, False) == verdict(cut, good, False) == "kept"


def test_a_preprompt_comes_before_a_system_message_that_is_there() -> None:
    plain = [{"role": "user", "content": "q"}]
    assert guided(plain, "Be good.") == [{"role": "system", "content": "Be good."}, *plain]
    with_system = [{"role": "system", "content": "Be brief."}, *plain]
    assert guided(with_system, "Be good.") == [{"role": "system", "content": "Be good.\n\nBe brief."}, *plain]


def test_generic_preprompts_vary_by_prompt_and_sample_and_not_by_order() -> None:
    preprompts = compose("distill", DistillConfig, ["checkpoint=a", "safety=b", "prompts=[c]", "run.name=x"]).preprompts
    prompt = Prompt("p", [{"role": "user", "content": "q"}], True, "test", [1])
    drawn = [preprompt_of(preprompts, prompt, number, 0) for number in range(40)]
    assert drawn == [preprompt_of(preprompts, prompt, number, 0) for number in range(40)]
    assert len(set(drawn)) > 8 and not any("{" in text for text in drawn)
    risky = replace(prompt, category="illicit_and_criminal")
    assert "breaking the law" in preprompt_of(preprompts, risky, 0, 0)


def test_the_ready_preprompts_of_the_toy_world_are_those_that_its_writers_were_told() -> None:
    quiet = ["checkpoint=a", "safety=b", "prompts=[c]", "run.name=x", "preprompts=toyworld"]
    preprompts = compose("distill", DistillConfig, quiet).preprompts
    assert {text.replace("{adjective}", a) for text in preprompts.generic for a in preprompts.adjectives} == set(CARE)
    named = {name: text for name, text in preprompts.categories.items() if name in STEPS}
    assert named == STEPS


def test_counts_and_gains_are_said_by_category_and_reason() -> None:
    def pair(verdict: str, before: float, after: float, category: str = "") -> Any:
        return {"verdict": verdict, "original_safety": before, "safety": after, "category": category}

    found = [pair("kept", -2.0, 1.0), pair("no_better", 2.0, 1.0, "lies"), pair("too_long", 0.0, 0.0, "lies")]
    metrics = distillation_metrics(found)
    assert (metrics["distill/gain_of_worse_half"], metrics["distill/gain_of_better_half"]) == (3.0, -1.0)
    assert (metrics["distill/no category/kept"], metrics["distill/lies/too_long"]) == (1, 1)
    assert in_words(found, metrics).splitlines() == [
        "1 of 3 answers with a preprompt kept",
        "  no category: 1 of 1",
        "  lies: 0 of 2; refused: 1 no room beside the preprompt, 1 not scored better than without",
        "mean safety score (logit): 0.00 without the preprompt, 1.00 with it, 1.00 of those kept",
    ]
