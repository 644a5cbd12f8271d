"""The program `inspect`: its figures against ones counted by hand, what it finds, masks, and its page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llamatrain.chat import encode_dialogue
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer
from sft.config import InspectConfig
from sft.figures import Figures
from sft.inspect import facts, findings, inspect, inspected
from sft.masks import by_messages, encoded, fault

Capture = pytest.CaptureFixture[str]
ASK, TELL = {"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "Because it is."}
TALK = [
    {"role": "system", "content": "Be short."},
    ASK,
    TELL,
    ASK,
    {"role": "assistant", "content": "So <b>be</b> it."},
]


def pair(chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"messages": [ASK], "chosen": chosen, "rejected": rejected, "kind": "helpfulness", **more}


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(*sources: str, **changes: Any) -> InspectConfig:
    values: dict[str, Any] = {"test": [], "tokenizer": None, "loss": "all", "max_length": None, "examples": 1}
    return InspectConfig(sources=list(sources), **{**values, "bad_rows": "skip", "page": None, **changes})


def test_figures_are_those_counted_by_hand(tmp_path: Path) -> None:
    rows = [
        pair("a b c d", "a b", rating="better", chosen_safe=True, rejected_safe=False),
        pair("a b", "a b c d"),  # contradicts the first
        pair("a b c d", "a b", rating="better", chosen_safe=True, rejected_safe=False),  # the first again
        pair("x", "x"),
    ]
    one = inspected(write(tmp_path / "p.jsonl", *rows), config("p", max_length=7), None)
    known = dict(facts(one, "words"))
    assert known["preferences"] == "4" and known["turns per dialogue"] == "1.0"
    assert known["words per example"] == f"{(3 * (4 + 4 + 4 + 2) + 2 * 5) / 8:.1f}, the longest 8"
    assert (known["words in prompt"], known["longer than 7"]) == ("4.0", "3 (75.0%)")
    assert known["ratings"] == "better 50.0%, unrated 50.0%"
    assert known["safety"] == "chosen safe, rejected unsafe 50.0%, unlabelled 50.0%"
    assert known["chosen is longer by"] == "+0.7 words"  # of +2, -2 and +2
    assert known["longer wins"] == "would be right in 66.7% of pairs"
    path = tmp_path / "p.jsonl"
    assert findings(one) == [
        f"1 contradictions: the same two answers as in an earlier pair, the opposite verdict: {path}:2",
        f"1 duplicates: the same row as an earlier one: {path}:3",
        f"1 pair with two equal answers: {path}:4",
    ]


def test_a_contradiction_is_one_to_the_first_of_its_pairs() -> None:
    figures = Figures("preference", len)
    for number, (chosen, rejected) in enumerate(["ab", "cd", "ba", "ab", "dc", "ba"], start=1):
        figures.add(pair(chosen, rejected), f"p:{number}")
    figures.finish()
    contradictions, duplicates = figures.strange.values()
    assert (contradictions, duplicates) == (["p:3", "p:5", "p:6"], ["p:4", "p:6"])
    assert list(figures.strange_counts.values()) == [2, 3]
    assert len(figures.prompts) == 1


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    figures = Figures("dialogue", lambda text: len(tokenizer.encode(text)))
    figures.add({"messages": TALK}, "x:1")
    sizes = [len(tokenizer.encode(message["content"])) for message in TALK]
    assert float(figures.example) == sum(sizes)
    assert float(figures.response) == (sizes[2] + sizes[4]) / 2


def test_overlap_of_train_and_test(tmp_path: Path, capsys: Capture) -> None:
    train = write(tmp_path / "train.jsonl", {"messages": [ASK, TELL]}, {"messages": TALK})
    test = write(tmp_path / "test.jsonl", pair("a", "b"), {**pair("a", "b"), "messages": [{**ASK, "content": "Else?"}]})
    other = write(tmp_path / "other.jsonl", {"messages": [{**ASK, "content": "Quite another?"}, TELL]})
    inspect(config(train, test=[test, other], examples=0))
    said = "".join(capsys.readouterr().out.split())  # a long path is divided at the end of a line
    assert "".join(f"1 of the 2 prompts in {test} stand in {train} too".split()) in said
    assert "".join(f"none of the 1 prompts in {other} stands in the sources".split()) in said


@pytest.mark.parametrize("loss", ["all", "last"])
def test_what_is_shown_as_trained_is_what_is_trained(loss: Any, tokenizer: Tokenizer) -> None:
    runs = encoded(TALK, loss, tokenizer)
    answers = ["Because it is.", "So <b>be</b> it."][0 if loss == "all" else 1 :]
    assert [text.strip() for text, trained in runs if trained] == [f"{answer} </s>" for answer in answers]
    plain, wrong = by_messages(TALK, loss)
    assert "".join(text for text, _ in runs).split() == "".join(text for text, _ in plain).split()
    assert [text.split() for text, trained in plain if trained] == [f"{answer} </s>".split() for answer in answers]
    assert wrong is None


def test_faults_of_masks(tokenizer: Tokenizer) -> None:
    tokens, mask = encode_dialogue([ASK, TELL], tokenizer)
    assert fault(tokens, mask, tokenizer) is None
    assert fault(tokens, [False] * len(mask), tokenizer) == "no token of an answer would be trained"
    for cut, targets in ((tokens, [*mask[:-1], False]), (tokens[:-1], mask[:-1])):
        assert (fault(cut, targets, tokenizer) or "").startswith(
            "the EOS that ends the row lies outside of the loss mask"
        )


def test_a_row_without_a_trained_token_is_an_error(tmp_path: Path, tokenizer_path: Path) -> None:
    empty = {"messages": [ASK, {"role": "assistant", "content": " "}]}
    path = write(tmp_path / "d.jsonl", {"messages": [ASK, TELL]}, empty)
    for given in (None, str(tokenizer_path)):
        with pytest.raises(UserError, match=rf"{path}:2: no token of an answer would be trained"):
            inspect(config(path, tokenizer=given, page=str(tmp_path / "p.html")))
    assert (tmp_path / "p.html").exists()  # what was found is written all the same


def test_the_page_holds_what_is_said_and_nothing_of_a_row_is_markup(tmp_path: Path, capsys: Capture) -> None:
    path = write(tmp_path / "d.jsonl", {"messages": TALK}, {"messages": 3})
    inspect(config(path, page=str(tmp_path / "p.html")))
    said = capsys.readouterr().out
    assert "1 of 2 rows skipped" in said and max(map(len, said.splitlines()[:-1])) <= 80
    marked: list[str] = []
    tags: set[str] = set()

    class Parser(HTMLParser):
        inside = False

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            tags.add(tag)
            self.inside = tag == "mark"

        def handle_data(self, data: str) -> None:
            if self.inside:
                marked.append(data)
            self.inside = False

    html = (tmp_path / "p.html").read_text()
    Parser().feed(html)
    assert [text.strip() for text in marked[1:]] == ["Because it is. </s>", "So <b>be</b> it. </s>"]
    assert not {"b", "s", "script", "link", "img"} & tags and "http" not in html


def test_what_nothing_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need rows with `text` or `messages`"):
        inspect(config(write(tmp_path / "x.jsonl", {"a": 1})))
