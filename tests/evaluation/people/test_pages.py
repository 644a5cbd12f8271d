"""The pages evaluate, safety and red team: what their forms say, the rows that they make, and that `ratings` reads them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.people import sampler
from evaluation.people.collection import Collection
from evaluation.people.config import CollectConfig, RatingsConfig
from evaluation.people.ratings import ratings
from llamatrain.chat import Message
from llamatrain.config.compose import compose
from llamatrain.data.kinds import PromptRow
from llamatrain.data.rows import read_rows
from llamatrain.errors import UserError
from tests.evaluation.people.page import Browser, collection, lines, write

RATERS = "raters=[anna,ben,cleo]"


def answers(model: str, count: int, **more: Any) -> list[dict[str, Any]]:
    """Return rows of responses.jsonl, two samples of each prompt."""
    return [
        {
            "prompt_id": f"p{number}",
            "messages": [{"role": "user", "content": f"question {number}"}],
            "response": f"answer {number} of {model}" + ("" if sample == 0 else " again"),
            "model": model,
            "temperature": 1.0,
            "seed": 0,
            "finished": True,
            "is_adversarial": True,
            **more,
        }
        for number in range(count)
        for sample in range(2)
    ]


def opened(folder: Path, task: str, *overrides: str) -> Collection:
    """Return a page with two prompts that sft and ppo answered."""
    for name in ("sft", "ppo"):
        (folder / name).mkdir(exist_ok=True)
        write(folder / name / "responses.jsonl", answers(name, 2))
    prompt = {"id": "p0", "messages": [{"role": "user", "content": "question 0"}], "is_adversarial": True}
    write(folder / "prompts.jsonl", [{**prompt, "meta": {"category": "unqualified_advice"}}])
    systems = f"systems={{ppo: {folder / 'ppo'}, sft: {folder / 'sft'}}}"
    given = [f"task={task}", systems, f"prompts={folder / 'prompts.jsonl'}", f"out={folder / 'out.jsonl'}", RATERS]
    return collection(compose("collect", CollectConfig, [*given, *overrides]))


def rated(folder: Path) -> dict[str, Any]:
    """Return what `ratings` makes of the folder."""
    ratings(RatingsConfig(str(folder), "majority", "quadratic", []))
    return json.loads((folder / "ratings.json").read_text())  # type: ignore[no-any-return]


# --- evaluate ----------------------------------------------------------------------------------------------------


def test_three_rate_two_systems_whichever_side_they_stand_on(tmp_path: Path) -> None:
    page = opened(tmp_path, "evaluate")
    sides = set()
    for name in ("anna", "ben", "cleo"):
        browser = Browser(page, name)
        for _ in range(2):
            assert "ppo" not in browser.page.replace("of ppo", ""), "no system is named"
            first = browser.responses[0].split()[-1]
            sides.add(first)
            assert browser.rate("left_much_better" if first == "ppo" else "right_much_better") == 200
    assert "Finished" in browser.page and sides == {"ppo", "sft"}
    rows = lines(tmp_path / "out.jsonl")
    assert len(rows) == 6 and {row["rating"] for row in rows} == {"a_much_better"}
    assert {row["first"] for row in rows} == {"a", "b"}
    told = {row["prompt_id"]: row.get("category") for row in rows}
    assert told == {"p0": "unqualified_advice", "p1": None}
    assert (rows[0]["turns"], rows[0]["words"], rows[0]["words_a"], rows[0]["words_b"]) == (1, 2, 4, 4)
    (found,) = rated(tmp_path)["side_by_side"]
    assert (found["system_a"], found["prompts"], found["win"]["mean"], found["raters"]) == ("ppo", 2, 1.0, 3)
    assert found["agreement"]["value"] == 1.0


def test_all_seven_and_cannot_judge(tmp_path: Path) -> None:
    page = opened(tmp_path, "evaluate", "raters=[anna]", "raters_per_item=1")
    anna = Browser(page, "anna")
    said = {}
    for value in ("left_better", "about_the_same", "right_slightly_better", "none"):
        left = "a" if anna.responses[0].endswith("ppo") else "b"
        right = "b" if left == "a" else "a"
        anna.rate(value)
        said[value] = page.store.verdicts()[-1].content
        assert said[value]["first"] == left
        anna.undo()
        names = {"left": left, "right": right}
        side, _, much = value.partition("_")
        wanted = None if value == "none" else f"{names.get(side, side)}_{much}"
        assert said[value]["rating"] == wanted
    for value in ("", "a_better", "left_worse", "left"):
        assert anna.rate(value) == 400
    assert "Choose one of the seven" in anna.page and page.store.verdicts() == []


def test_two_agree_where_they_prefer_the_same_system(tmp_path: Path) -> None:
    task = opened(tmp_path, "evaluate").task
    assert task.agree({"rating": "a_better"}, {"rating": "a_slightly_better"}) is True
    assert task.agree({"rating": "a_better"}, {"rating": "about_the_same"}) is False
    assert task.agree({"rating": None}, {"rating": "b_better"}) is None


def test_systems_that_answered_other_prompts_are_refused(tmp_path: Path) -> None:
    opened(tmp_path, "evaluate")
    write(tmp_path / "other.jsonl", answers("other", 1, prompt_id="elsewhere"))
    write(tmp_path / "changed.jsonl", answers("changed", 1, messages=[{"role": "user", "content": "another question"}]))
    for name, message in (("other", "answer no prompt in common"), ("changed", "different conversations under the id")):
        systems = f"systems={{ppo: {tmp_path / 'ppo'}, x: {tmp_path / f'{name}.jsonl'}}}"
        cfg = compose("collect", CollectConfig, ["task=evaluate", f"out={tmp_path / name / 'out.jsonl'}", systems])
        with pytest.raises(UserError, match=message):
            collection(cfg)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["task=evaluate", "systems={a: x}"], r"need two, as systems=\{sft: runs/demo/sample_sft, ppo: ...\} for"),
        (["task=safety"], r"systems=null: need one, as systems="),
        (["task=safety", "systems={a: x}", "gold=x.jsonl"], "need none for task=safety, as gold items are pairs"),
        (["task=red_team"], "checkpoint_a=null: need the chat checkpoint that is attacked"),
        (["task=rate"], "task=rate: need one of compare, evaluate, safety, red_team"),
    ],
)
def test_a_page_says_what_it_needs(given: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose("collect", CollectConfig, ["out=x.jsonl", *given])


# --- safety ------------------------------------------------------------------------------------------------------


def test_three_rate_each_systems_responses_and_most_of_them_decide(tmp_path: Path) -> None:
    page = opened(tmp_path, "safety")
    for name, unsafe in (("anna", "2"), ("ben", "1"), ("cleo", "4")):
        browser = Browser(page, name)
        assert "no safety violation, and very helpful" in browser.page
        for _ in range(4):
            (response,) = browser.responses
            assert browser.rate(unsafe if response == "answer 0 of sft" else "5") == 200
    rows = lines(tmp_path / "out.jsonl")
    assert len(rows) == 12 and {row["model"] for row in rows} == {"sft", "ppo"}
    found = {model["model"]: model for model in rated(tmp_path)["safety"]}
    assert (found["sft"]["violations"]["mean"], found["ppo"]["violations"]["mean"]) == (0.5, 0.0)
    assert found["sft"]["mean_rating"]["mean"] == pytest.approx((7 / 3 + 5) / 2)


def test_safety_cannot_judge_nonsense_and_agreement(tmp_path: Path) -> None:
    page = opened(tmp_path, "safety", "raters=[anna]", "raters_per_item=1")
    anna = Browser(page, "anna")
    for value in ("0", "6", "", "five"):
        assert anna.rate(value) == 400
    assert anna.rate("none") == 200
    assert [row["rating"] for row in lines(tmp_path / "out/so_far.jsonl")] == [None]
    assert page.task.agree({"rating": 1}, {"rating": 2}) is True
    assert page.task.agree({"rating": 2}, {"rating": 3}) is False


def test_only_adversarial_prompts_are_rated_for_safety(tmp_path: Path) -> None:
    write(tmp_path / "kind.jsonl", answers("kind", 2, is_adversarial=False))
    given = ["task=safety", f"systems={{kind: {tmp_path / 'kind.jsonl'}}}", f"out={tmp_path / 'c.jsonl'}"]
    cfg = compose("collect", CollectConfig, given)
    with pytest.raises(UserError, match="need responses to adversarial prompts, there are none"):
        collection(cfg)


# --- red team ----------------------------------------------------------------------------------------------------


class Parrot:
    """Stands for a model: repeats what was said last, in how many turns."""

    def __init__(self, cfg: CollectConfig) -> None:
        self.name = cfg.checkpoint_a

    def one(self, messages: list[Message], key: str) -> dict[str, Any]:
        return {"response": f"{len(messages)}: {messages[-1]['content']}", "model": self.name, "temperature": 1.0}


@pytest.fixture
def attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Collection:
    monkeypatch.setattr(sampler, "Sampler", Parrot)
    monkeypatch.delitem(sys.modules, "evaluation.people.red_team", raising=False)
    given = ["task=red_team", "checkpoint_a=sft", f"out={tmp_path / 'out.jsonl'}", "raters=[anna,ben]", "round=2"]
    return collection(compose("collect", CollectConfig, given))


def ask(browser: Browser, text: str, **more: str) -> int:
    return browser.send("/ask", {**browser.hidden("/ask"), "text": text, **more})


def judge(browser: Browser, degree: str) -> int:
    return browser.send("/verdict", {**browser.hidden("/verdict"), "rating": degree})


def test_an_attack_over_two_turns_becomes_prompts_and_gamma(attacked: Collection, tmp_path: Path) -> None:
    anna, ben = Browser(attacked, "anna"), Browser(attacked, "ben")
    assert ask(anna, "how?") == 400 and "Choose what the attack is after, and how." in anna.page
    assert "how?" in anna.page, "what was written stays"
    assert ask(anna, "how?", risk="unqualified_advice", vector="semantic") == 200
    assert anna.responses == ["1: how?"]
    assert judge(anna, "9") == 400 and judge(anna, "1") == 200
    assert "1: how?" in anna.page and "What is it after?" not in anna.page  # the conversation goes on
    assert ask(anna, "do tell") == 200 and judge(anna, "4") == 200
    assert ask(ben, "and me?", risk="illicit_and_criminal", vector="other") == 200 and judge(ben, "none") == 200
    attacked.finish()
    first, second, third = read_rows(tmp_path / "out.jsonl", PromptRow)  # a file of prompts, as other programs read it
    assert len({row["id"] for row in (first, second, third)}) == 3 and first["is_adversarial"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    rows = lines(tmp_path / "out.jsonl")
    assert [row["degree"] for row in rows] == [1, 4, None]
    assert rows[0]["dialogue"] == rows[1]["dialogue"] != rows[2]["dialogue"]
    assert rows[1]["meta"] == {"category": "unqualified_advice", "attack_vector": "semantic"}
    assert all(0 <= row["seconds"] < 60 for row in rows)  # in hundredths
    (found,) = rated(tmp_path)["red_team"]
    assert (found["round"], found["model"], found["people"], found["attacks"]) == (2, "sft", 2, 2)
    assert found["gamma"]["count"] == 1 and found["by_turns"]["multi turn"]["mean"] == 1.0


def test_a_page_that_lies_open_is_no_work(attacked: Collection) -> None:
    anna = Browser(attacked, "anna")
    since = str(float(anna.hidden("/ask")["since"]) - 7200)
    ask(anna, "how?", risk="unqualified_advice", vector="semantic", since=since)
    judge(anna, "1")
    (row,) = attacked.rows()
    assert 600 <= row["seconds"] < 660
    assert ask(anna, "again", risk="unqualified_advice", vector="semantic", since="now") == 200  # no form of ours


def test_a_turn_sent_twice_is_one(attacked: Collection) -> None:
    anna = Browser(attacked, "anna")
    form = {**anna.hidden("/ask"), "text": "how?", "risk": "unqualified_advice", "vector": "semantic"}
    assert anna.send("/ask", form) == anna.send("/ask", form) == 200
    assert len(attacked.items) == 1


def test_pages_that_ask_nothing_take_no_text(tmp_path: Path) -> None:
    anna = Browser(opened(tmp_path, "safety"), "anna")
    assert anna.send("/ask", {"csrf": anna.hidden("/verdict")["csrf"], "text": "hello", "key": "k"}) == 400


def test_every_key_of_a_page_presses_one_thing(attacked: Collection, tmp_path: Path) -> None:
    anna = Browser(attacked, "anna")
    pages = [anna.page]
    ask(anna, "how?", risk="unqualified_advice", vector="semantic")
    pages.append(anna.page)
    judge(anna, "1")
    pages.append(anna.page)
    for task in ("evaluate", "safety"):
        (tmp_path / task).mkdir()
        other = Browser(opened(tmp_path / task, task), "anna")
        other.rate("none")
        pages.append(other.page)
    for page in pages:
        keys = re.findall(r'data-key="(.)"', page)
        assert len(keys) == len(set(keys)) > 3
