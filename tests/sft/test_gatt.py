"""Ghost Attention: where the instruction stands when answers are sampled and when they are trained, and how recall is measured."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamatrain.chat import encode_dialogue
from llamatrain.config.compose import compose
from llamatrain.constraints import Instruction, draw_instruction, read_constraints
from llamatrain.data.kinds import DialogueRow
from llamatrain.data.rows import read_rows, write_rows
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.responses.rollouts import Rollout
from llamatrain.tokenizer import Tokenizer
from sft import recall, turns
from sft.config import GAttConfig, RecallConfig
from sft.gatt import synthesise
from sft.masks import encoded
from tests.checkpoints import quiet, read_jsonl, save_checkpoint

QUESTIONS = ("Who?", "Where?", "When?", "Why?", "How?", "What?")
CONSTRAINTS = {
    "figure": {"full": "Act as a {}.", "short": "Figure: {}.", "values": {"king": "Ahoy"}},
    "hobby": {"full": "You like {}.", "short": "Hobby: {}.", "values": ["chess"]},
}


class Model:
    """Stands in for a model: `say` gives the answer to a prompt at a turn (from 1); "" has no end."""

    def __init__(self, say: Any) -> None:
        self.say, self.asked = say, list[list[dict[str, str]]]()
        self.dies_after: int | None = None

    def __call__(
        self, model: Any, prompts: Any, numbers: Any, sampling: Any, tokenizer: Tokenizer, *_: Any, **__: Any
    ) -> list[Rollout]:
        made = []
        for prompt, number in zip(prompts, numbers, strict=True):
            if self.dies_after is not None and len(self.asked) == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(prompt.messages)
            text = self.say(prompt, number + 1)
            tokens = tokenizer.encode(text) + ([tokenizer.eos_id] if text else [])
            made.append(Rollout(prompt, tokens, bool(text), [0.0] * len(tokens), bool(text)))
        return made


@pytest.fixture
def start(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Path:
    """A chat checkpoint, beside dialogues of 2 to 6 turns."""
    rows = []
    for number in range(30):
        said: list[dict[str, str]] = []
        for question in QUESTIONS[: 2 + number % 5]:
            said += [{"role": "user", "content": question}, {"role": "assistant", "content": "a written answer"}]
        rows.append({"messages": said})
    write_rows(tmp_path / "dialogues.jsonl", rows)
    (tmp_path / "constraints.json").write_text(json.dumps(CONSTRAINTS))
    return save_checkpoint(tmp_path / "chat", Transformer(replace(model_config, max_seq_len=1024), seed=0), tokenizer)


def speaks(monkeypatch: pytest.MonkeyPatch, say: Any) -> Model:
    model = Model(say)
    monkeypatch.setattr(turns, "sample_rollouts", model)
    monkeypatch.setattr(turns, "loaded_once", lambda *_: lambda *_, **__: None)
    return model


def configured(start: Path, name: str, *more: str) -> GAttConfig:
    about = [
        f"checkpoint={start}",
        f"dialogues=[{start.parent / 'dialogues.jsonl'}]",
        f"constraints={start.parent / 'constraints.json'}",
        "chunk_dialogues=7",
    ]
    return compose("gatt", GAttConfig, [*quiet(start.parent, name), *about, *more])


def test_the_instruction_is_heard_in_every_turn_and_trained_in_the_first(
    start: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    model = speaks(monkeypatch, lambda prompt, turn: f"Ahoy {turn}")
    synthesise(configured(start, "rows"))
    for messages in model.asked:
        users = [one["content"] for one in messages if one["role"] == "user"]
        heard = {text.removesuffix(f" {question}") for text, question in zip(users, QUESTIONS, strict=False)}
        assert len(heard) == 1 and heard.pop() in {
            "Act as a king.", "You like chess.", "Act as a king. You like chess.", "You like chess. Act as a king."
        }  # fmt: skip
        assert not any("written" in one["content"] for one in messages)
    found = list(read_rows(start.parent / "rows" / "gatt.jsonl", DialogueRow))
    assert len(found) == 30
    assert {len(row["messages"]) // 2 for row in found} == {2, 3, 4, 5, 6}  # a drawn number of turns of each
    for row in found:
        first, *later = [one["content"] for one in row["messages"] if one["role"] == "user"]
        assert first == f"{row['meta']['instruction']} {QUESTIONS[0]}" and later == list(QUESTIONS[1 : 1 + len(later)])
        assert row["meta"]["instruction"].startswith(("Figure", "Hobby")) is row["meta"]["short"]
        assert row["loss"] == "last"
        shown = encoded(row["messages"], row["loss"], tokenizer)
        assert [text for text, trained in shown if trained] == [f" Ahoy {1 + len(later)} </s>"]
        assert sum(encode_dialogue(row["messages"], tokenizer, "last")[1]) < sum(
            encode_dialogue(row["messages"], tokenizer)[1]
        )
    assert 5 < sum(row["meta"]["short"] for row in found) < 20
    (told,) = read_jsonl(start.parent / "rows" / "metrics.jsonl")
    assert (told["gatt/rows"], told["gatt/dialogues"], told["gatt/kept_to"]) == (30, 30, 1.0)


def test_a_killed_run_ends_with_the_same_file(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["rows_per_dialogue=3", "min_turns=3"]
    model = speaks(monkeypatch, lambda prompt, turn: f"Ahoy {prompt.id} {turn}")
    synthesise(configured(start, "whole", *more))
    once, model.asked = len(model.asked), []
    model.dies_after = once // 2
    with pytest.raises(KeyboardInterrupt):
        synthesise(configured(start, "killed", *more))
    model.asked, model.dies_after = [], None
    synthesise(configured(start, "killed", *more))
    assert 0 < len(model.asked) < once  # the chunks that were whole are kept
    whole, again = ((start.parent / name / "gatt.jsonl").read_bytes() for name in ("whole", "killed"))
    assert whole == again
    per_dialogue = [row["messages"][1]["content"] for row in read_jsonl(start.parent / "whole" / "gatt.jsonl")]
    assert max(per_dialogue.count(one) for one in per_dialogue) == 3


def test_a_dialogue_ends_where_an_answer_does_not_or_the_context_is_full(
    start: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def say(prompt: Any, turn: int) -> str:
        if turn == 2 and int(prompt.id) % 4 == 1:
            return ""
        return "[INST] you" if turn == 3 and int(prompt.id) % 4 == 3 else "so " * 120

    speaks(monkeypatch, say)
    synthesise(configured(start, "rows", "rows_per_dialogue=9", "run.progress=true"))
    (told,) = read_jsonl(start.parent / "rows" / "metrics.jsonl")
    assert told["gatt/ended_unfinished"] > 0 and told["gatt/ended_context"] > 0 and told["gatt/ended_tags"] > 0
    assert all(len(row["messages"]) < 9 for row in read_jsonl(start.parent / "rows" / "gatt.jsonl"))
    assert "ended as an answer had no end" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"no dialogue was answered for 6 turns: .* need a model that ends its answers"):
        synthesise(configured(start, "none", "min_turns=6", "max_dialogues=2"))


def test_short_dialogues_are_joined_and_adversarial_ones_left_out(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row(question: str, **more: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "."}], **more}

    write_rows(
        start.parent / "dialogues.jsonl", [row("one"), row("bad", is_adversarial=True), *map(row, ("two", "three"))]
    )
    speaks(monkeypatch, lambda prompt, turn: "Ahoy")
    synthesise(configured(start, "joined"))
    (made,) = read_jsonl(start.parent / "joined" / "gatt.jsonl")
    assert made["messages"][0]["content"].endswith(" one") and made["messages"][2]["content"] == "two"


def recall_at_two_and_four(start: Path) -> None:
    """Measure recall at turns 2 and 4, in a run of that name."""
    about = [
        f"checkpoint={start}",
        f"dialogues=[{start.parent / 'dialogues.jsonl'}]",
        f"constraints={start.parent / 'constraints.json'}",
        "turns=[2,4]",
    ]
    recall.recall(compose("recall", RecallConfig, [*quiet(start.parent, "recall"), *about]))


def test_recall_is_what_is_kept_to_at_each_turn(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = speaks(monkeypatch, lambda prompt, turn: "" if turn == 1 else "Ahoy!" if turn == 2 else f"No {turn}")
    recall_at_two_and_four(start)
    (told,) = read_jsonl(start.parent / "recall" / "metrics.jsonl")
    assert (told["recall/turn_2"], told["recall/turn_4"], told["recall/dialogues"]) == (1.0, 0.0, 24)
    assert recall.in_words([2, 4], told | {"recall/reached_4": 1}) == (
        "attributes recalled: 100% at turn 2 (24 dialogues), 0% at turn 4 (1 dialogue)"
    )
    found = read_jsonl(start.parent / "recall" / "recall.jsonl")
    assert [row["turn"] for row in found] == [2, 4] * 24  # six of two and six of three turns are joined
    assert {kept for row in found for kind, kept in row["kept"].items() if kind == "hobby"} == {None}  # it has no rule
    last = [one["content"] for one in model.asked[-1] if one["role"] == "user"]
    assert last[1:] == list(QUESTIONS[1:4])  # the instruction stands in the first turn alone


def test_what_is_asked_for_is_asked_beside_the_dialogue(start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = CONSTRAINTS | {"hobby": CONSTRAINTS["hobby"] | {"ask": "What do you like?"}}
    (start.parent / "constraints.json").write_text(json.dumps(own))

    def say(prompt: Any, turn: int) -> str:
        if prompt.messages[-1]["content"].endswith("What do you like?"):
            return "Chess!" if turn == 2 else "Tea."
        return "Ahoy"

    model = speaks(monkeypatch, say)
    recall_at_two_and_four(start)
    found = read_jsonl(start.parent / "recall" / "recall.jsonl")
    hobbies = [(row["turn"], row["replies"], row["kept"]["hobby"]) for row in found if "hobby" in row["kept"]]
    assert {str(one) for one in hobbies} == {str((2, {"hobby": "Chess!"}, True)), str((4, {"hobby": "Tea."}, False))}
    assert {str(row["replies"]) for row in found if "hobby" not in row["kept"]} == {"{}"}
    assert all(row["kept"].get("figure") in (True, None) and row["response"] == "Ahoy" for row in found)
    before = [one["content"] for messages in model.asked for one in messages[:-1]]
    assert not any("like?" in text or text in ("Chess!", "Tea.") for text in before)  # the dialogue knows nothing of it
    asked = [one for one in model.asked if one[-1]["content"] == "What do you like?"]
    assert {len(messages) for messages in asked} == {3, 7} and all("chess" in one[0]["content"] for one in asked)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["constraints=nowhere.yaml"], "constraints=nowhere.yaml: there is no such file; null takes those of"),
        (["min_turns=500", "max_turns=500"], "harmless ones have 120 turns in all; need 500"),
        (["max_turns=1"], "max_turns=1: need min_turns=2 or more"),
        (["short_fraction=2"], "short_fraction=2.0: need a number in"),
        (["dialogues=[]"], r"dialogues=\[\]: need at least one"),
    ],
)
def test_mistakes_are_named(start: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        synthesise(configured(start, "wrong", *overrides))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", r"found \[\], need kinds of constraints, each with full, short, values"),
        ("a: {full: x}", "a: found {'full': 'x'}, need full, short, values and nothing else"),
        ("a: {full: be, short: '{}', values: [x]}", r"a\.full: found 'be', need a text with one {}"),
        ("a: {full: '{}', short: '{}', values: [x], ask: ''}", r"a\.ask: found '', need a question"),
        ("a: {full: '{}', short: '{}', values: []}", r"a\.values: found \[\], need a list of texts"),
        (
            "a: {full: '{}', short: '{}', values: {x: 1}}",
            r"a\.values: found {'x': 1}, need a list of texts, or texts with",
        ),
    ],
)
def test_a_file_of_constraints_says_what_it_lacks(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=f"own.yaml: {message}"):
        read_constraints(path)


@pytest.mark.parametrize(
    ("mark", "answer", "kept"),
    [
        ("Ahoy", "ahoy, mate!", True),
        ("Ahoy", "He said: 'AHOY'", True),
        ("hik", "Chikago hall", False),
        ("Boo", "A book.", False),
        ("the violin", "I play the violin.", True),
        ("c++", "I enjoy C++.", True),
        (None, "The capital of France is Paris.", None),
    ],
)
def test_words_are_held_as_whole_words(mark: str | None, answer: str, kept: bool | None) -> None:
    assert Instruction("", "", {"a": "x"}, {"a": mark}).kept(answer) == {"a": kept}


def test_our_own_constraints_are_the_papers_kinds() -> None:
    own = read_constraints(Path(turns.__file__).with_name("constraints.yaml"))
    assert set(own) == {"hobby", "language", "figure"}
    assert {mark for one in own.values() for mark in one.values.values()} == {None}  # of no answer a word could tell
    assert {kind for kind, one in own.items() if one.ask is None} == {"language"}  # only who reads it can tell
    rng = random.Random(0)
    drawn = [draw_instruction(own, rng) for _ in range(500)]
    assert {len(one.chosen) for one in drawn} == {1, 2, 3}  # random combinations
    assert any(one.short == "Figure: Napoleon." for one in drawn)
