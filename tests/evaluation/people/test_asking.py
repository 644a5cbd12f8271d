"""Raters who write prompts themselves: two models answer, and the chosen response goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evaluation.people.collection import Collection
from evaluation.people.config import CollectConfig
from llamatrain.config.compose import compose
from llamatrain.errors import UserError
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint
from tests.evaluation.people.page import Browser, collection, comparison, lines, write

BETTER = "left:better"


@pytest.fixture
def opened(tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer) -> Collection:
    """A page of two untrained models."""
    return collection(compose("collect", CollectConfig, asking(tmp_path, model_config, tokenizer)))


def asking(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> list[str]:
    """Return the overrides of a page on which two untrained models answer."""
    models = {side: save_checkpoint(folder / side, Transformer(config, seed=ord(side)), tokenizer) for side in "ab"}
    return [
        *(f"checkpoint_{side}={path}" for side, path in models.items()),
        *(f"out={folder / 'out.jsonl'}", "sampling.max_new_tokens=6", "sampling.temperatures=[1.0]"),
    ]


def ask(rater: Browser, text: str, **more: str) -> int:
    """Write a turn."""
    return rater.send("/ask", {**rater.hidden("/ask"), "text": text, **more})


def test_the_chosen_response_goes_on_until_the_rater_begins_anew(opened: Collection, tmp_path: Path) -> None:
    rater = Browser(opened, "rater")
    assert "Write a prompt" in rater.page and ask(rater, "Where is the fox?") == 200
    chosen = rater.responses[0]
    assert "more helpful" in rater.page and rater.rate(BETTER) == 200
    assert "your next turn" in rater.page and ask(rater, "And the bird?") == 200
    assert [text for text in ("Where is the fox?", "And the bird?") if text in rater.page] != []
    rater.rate("right:better")
    rater.page = rater.client.get("/").text
    assert "Write a prompt" in rater.page
    ask(rater, "Say something bad.", adversarial="yes")
    rater.rate(BETTER, safe="both")
    first, second, third = lines(tmp_path / "out/so_far.jsonl")
    assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][:2] == [*first["messages"], {"role": "assistant", "content": first["chosen"]}]
    assert chosen.strip() in first["chosen"] or "&" in chosen  # a page escapes
    assert (third["kind"], third["meta"]["is_adversarial"], third["chosen_safe"]) == ("safety", True, True)
    models = {first["meta"]["model_chosen"], first["meta"]["model_rejected"]}
    assert models == {opened.cfg.checkpoint_a, opened.cfg.checkpoint_b}
    assert not opened.finished.is_set(), "only who leads ends it"


def test_a_prompt_sent_twice_is_asked_once(opened: Collection) -> None:
    rater = Browser(opened, "rater")
    form = {**rater.hidden("/ask"), "text": "Where is the fox?"}
    assert rater.send("/ask", form) == rater.send("/ask", form) == 200
    assert len(opened.store.items()) == 1


def test_what_cannot_be_asked_is_said_and_stays_in_the_field(opened: Collection) -> None:
    rater = Browser(opened, "rater")
    for text, said in (
        ("  ", "Write what the model is to answer."),
        ("a [INST] b", "which messages may not contain"),
        ("fox " * 400, "Too long for the models"),
    ):
        assert ask(rater, text) == 400 and said in rater.page
        assert f">{text.strip()}" in re.sub(r"<textarea[^>]*>\s*", "<textarea>", rater.page)
    assert opened.store.items() == {}


def test_undo_takes_back_what_followed(opened: Collection) -> None:
    rater = Browser(opened, "rater")
    ask(rater, "Where is the fox?")
    rater.rate(BETTER)
    ask(rater, "And the bird?")
    rater.undo()
    assert "And the bird?" not in rater.page and "Where is the fox?" in rater.page
    rater.rate("right:better")
    assert "your next turn" in rater.page, "the other response goes on now"


def test_a_conversation_of_the_file_goes_on_where_models_answer(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [comparison(n) for n in range(2)])
    given = [*asking(tmp_path, model_config, tokenizer), f"comparisons={pairs}"]
    opened = collection(compose("collect", CollectConfig, given))
    rater = Browser(opened, "rater")
    chosen = rater.responses[0]
    rater.rate(BETTER)
    assert "question 1" in rater.page
    (link,) = re.findall(r'href="(/\?on=\d+)"', rater.page)
    rater.page = rater.client.get(link).text
    assert chosen in rater.page and ask(rater, "Why?") == 200
    assert "question 0" in rater.page and "Why?" in rater.page
    rater.rate(BETTER)
    rater.page = rater.client.get("/").text
    assert "question 1" in rater.page


def test_checkpoints_are_needed_where_nothing_else_is_rated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint_b=b: need checkpoint_a, too"):
        compose("collect", CollectConfig, ["checkpoint_b=b", "comparisons=c.jsonl", f"out={tmp_path}/o.jsonl"])
