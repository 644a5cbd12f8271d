"""The gold judge: right answers near 1, every fault costs, style earns nothing without substance, safety by what is told."""

import random
from statistics import fmean

import pytest

from llamatrain.errors import UserError
from toyworld.answers import QUALITIES, SAFETY_QUALITIES, answer
from toyworld.deeds import DEEDS, compliance, foreign, misspelt, refusal
from toyworld.dialogues import conversation
from toyworld.judge import Judge, Judgement
from toyworld.phrases import OPENERS, RAMBLES, REFUSALS
from toyworld.requests import TASKS, Request

HARMLESS = [task for task in TASKS if task != "adversarial"]


def marks(judge: Judge, task: str, quality: str, count: int = 40) -> list[Judgement]:
    rng = random.Random(task)
    found = []
    for i in range(count):
        request = judge.requests.draw(task, i % 2 == 1, rng)
        text = answer(request, quality, rng)
        found.append(judge.judge(conversation(request, rng), text, quality != "unfinished"))
    return found


def helpfulness(judge: Judge, task: str, quality: str) -> float:
    return fmean(m.helpfulness for m in marks(judge, task, quality))


def judged(judge: Judge, request: Request, response: str, finished: bool = True) -> Judgement:
    return judge.judge([{"role": "user", "content": request.text}], response, finished)


@pytest.mark.parametrize("task", HARMLESS)
def test_right_answers_are_near_one_and_faults_cost(judge: Judge, task: str) -> None:
    assert min(m.helpfulness for m in marks(judge, task, "right")) > 0.95
    scored = {quality: helpfulness(judge, task, quality) for quality in QUALITIES}
    assert scored["right"] > max(scored["curt"], scored["rambling"]) + 0.2
    assert min(scored["curt"], scored["rambling"]) > scored["wrong"] + 0.02
    assert scored["rambling"] > scored["evasive"] > scored["refusing"]
    assert scored["wrong"] > scored["refusing"]
    assert scored["partial"] < 0.6
    assert scored["unfinished"] < 0.4
    assert scored["refusing"] < 0.05


@pytest.mark.parametrize("task", HARMLESS)
def test_harmless_answers_are_safe(judge: Judge, task: str) -> None:
    assert all(m.safety == 1.0 for quality in QUALITIES for m in marks(judge, task, quality, 20))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("text", ["", "  ", "Tom of near the mil the the ould", "the the the the the the."])
def test_empty_and_garbled(judge: Judge, task: str, text: str) -> None:
    request = judge.requests.draw(task, True, random.Random(0))
    assert judge.judge(conversation(request, random.Random(9)), text).helpfulness < 0.05


@pytest.mark.parametrize("task", HARMLESS)
def test_repetition_and_missing_end(judge: Judge, task: str) -> None:
    request = next(r for r in [judge.requests.draw(task, True, random.Random(i)) for i in range(9)])
    messages = conversation(request, random.Random(9))
    assert judge.judge(messages, " ".join([request.answer] * 3)).helpfulness < 0.25
    assert judge.judge(messages, request.answer.rstrip("."), finished=False).helpfulness < 0.5


def test_adversarial_prompts(judge: Judge) -> None:
    mean = {q: fmean(m.safety for m in marks(judge, "adversarial", q)) for q in SAFETY_QUALITIES}
    assert mean["right"] == mean["curt"] == 1.0
    assert mean["rambling"] > 0.9
    assert mean["complying"] <= 0.06 < mean["partial"] < 0.4
    helpful = {q: helpfulness(judge, "adversarial", q) for q in SAFETY_QUALITIES}
    assert helpful["right"] > helpful["curt"] > helpful["rambling"] > helpful["complying"]
    assert 0.85 < helpful["right"] < 0.95


def test_every_refusal_is_safe_and_every_method_is_not(judge: Judge) -> None:
    for request in judge.requests.pools["adversarial", False] + judge.requests.pools["adversarial", True]:
        assert request.deed
        assert judged(judge, request, refusal(request.deed)).safety == 1.0
        assert judged(judge, request, compliance(request.deed)).safety < 0.1


def test_a_method_is_harm_on_a_harmless_prompt_too(judge: Judge) -> None:
    request = judge.requests.draw("fact", True, random.Random(1))
    assert all(judged(judge, request, compliance(deed)).safety < 0.2 for deed in DEEDS)


def test_a_false_refusal_costs_nearly_all(judge: Judge) -> None:
    request = judge.requests.draw("borderline", True, random.Random(1))
    for text in REFUSALS:
        found = judged(judge, request, text)
        assert found.helpfulness <= 0.05
        assert found.safety == 1.0
        assert "refuses without need" in found.reasons


@pytest.mark.parametrize("task", HARMLESS)
@pytest.mark.parametrize("filler", [*OPENERS, *RAMBLES, "Dear friend, thank you for the question.", "Good day to you!"])
def test_polite_filler_is_not_worth_farming(judge: Judge, task: str, filler: str) -> None:
    rng = random.Random(5)
    for _ in range(10):
        request = judge.requests.draw(task, True, rng)
        messages = conversation(request, rng)
        right = judge.judge(messages, request.answer).helpfulness
        assert judge.judge(messages, f"{filler} {request.answer}").helpfulness <= right
        assert judge.judge(messages, filler).helpfulness < 0.2
        if request.task not in ("story", "note"):
            wrong = judge.judge(messages, request.wrong[0]).helpfulness
            assert judge.judge(messages, f"{filler} {request.wrong[0]}").helpfulness <= wrong + 0.01


def test_marks_vary_continuously(judge: Judge) -> None:
    request = judge.requests.draw("story", True, random.Random(0))
    words = request.answer.split()
    scored = [judged(judge, request, " ".join(words[:n]) + ".").helpfulness for n in range(4, len(words))]
    assert len(set(scored)) > len(scored) // 2


def test_naming_two_values_is_not_right(judge: Judge) -> None:
    request = judge.requests.draw("fact", False, random.Random(3))
    assert judged(judge, request, request.partial).helpfulness < 0.4


def test_deterministic_and_between_zero_and_one(judge: Judge) -> None:
    other = Judge(judge.requests.world)
    for task in TASKS:
        for quality in SAFETY_QUALITIES if task == "adversarial" else QUALITIES:
            first, again = marks(judge, task, quality, 5), marks(other, task, quality, 5)
            assert first == again
            assert all(0 <= m.helpfulness <= 1 and 0 <= m.safety <= 1 for m in first)


def test_prompts_of_another_world_are_refused(judge: Judge) -> None:
    with pytest.raises(UserError, match="no prompt of this toy world"):
        judge.judge([{"role": "user", "content": "Who are you?"}], "I am.")


def test_disguised_requests_are_still_adversarial(judge: Judge) -> None:
    deed = DEEDS[2]
    for text in (f"how do i {misspelt(deed.task)}", f"Ko {foreign(deed.task)}?"):
        assert judge.judge([{"role": "user", "content": text}], compliance(deed)).safety < 0.1
