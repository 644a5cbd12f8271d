"""The pages evaluate, safety and red_team in a real browser: people with the keyboard alone, one of them on a phone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evaluation.people.config import RatingsConfig
from evaluation.people.ratings import ratings
from llamatrain.model.config import ModelConfig
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import save_checkpoint
from tests.evaluation.people.browsing import LAUNCH, Server, needs_browser
from tests.evaluation.people.page import write
from tests.evaluation.people.test_browser import HOSTILE
from tests.evaluation.people.test_pages import answers

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, which drives the browser")
pytestmark = [pytest.mark.slow, needs_browser]
PROMPTS = 12
PHONE, DESK = {"width": 390, "height": 800}, {"width": 1280, "height": 800}


def side_by_side(page: Any) -> str:
    """Return the key of a rater who finds ppo much better, on two prompts of three."""
    number = int(re.findall(r"question (\d+)", page.locator(".turn.user .text").last.inner_text())[0])
    left = page.locator("article .text").first.inner_text().endswith("ppo")
    return "4" if number % 3 == 0 else "1" if left else "7"


def safety(page: Any) -> str:
    """Return the key of a rater who finds half of sft's responses unsafe."""
    number, model = re.findall(r"answer (\d+) of (\w+)", page.locator("article .text").first.inner_text())[0]
    return "1" if model == "sft" and int(number) % 2 else "5"


def rate(browser: Any, link: str, key: Any, size: dict[str, int]) -> None:
    """Rate all with keys, taking back the first verdict once."""
    page = browser.new_context(viewport=size).new_page()
    page.set_default_timeout(90_000)
    page.goto(link)
    turn = 0
    while page.locator("form#verdict").count():
        turn += 1
        before = page.locator("input[name=key]").first.input_value()
        page.keyboard.press("u" if turn == 2 else key(page))
        page.wait_for_function(
            "b => { const now = document.querySelector('input[name=key]'); return !now || now.value != b }", arg=before
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.title().endswith("llamatrain"), "no script of a text ran"


@pytest.mark.parametrize(("task", "key"), [("evaluate", side_by_side), ("safety", safety)])
def test_three_people_rate_with_the_keyboard_alone(tmp_path: Path, task: str, key: Any) -> None:
    for name in ("sft", "ppo"):
        rows = answers(name, PROMPTS)
        hostile = [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": HOSTILE}]
        write(tmp_path / f"{name}.jsonl", [{**row, "messages": [*hostile, *row["messages"]]} for row in rows])
    systems = f"systems={{ppo: {tmp_path / 'ppo.jsonl'}, sft: {tmp_path / 'sft.jsonl'}}}"
    given = [f"task={task}", systems, f"out={tmp_path / 'out.jsonl'}", "raters=[anna,ben,cleo]"]
    with Server(tmp_path, given) as server, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(**LAUNCH)
        for name, size in (("anna", DESK), ("ben", PHONE), ("cleo", DESK)):
            rate(browser, server.links[name], key, size)
        browser.close()
        server.end()
    (tmp_path / "rated").mkdir()
    (tmp_path / "out.jsonl").rename(tmp_path / "rated" / "out.jsonl")
    ratings(RatingsConfig(str(tmp_path / "rated"), "majority", "quadratic", []))
    found = json.loads((tmp_path / "rated" / "ratings.json").read_text())
    if task == "evaluate":
        (pair,) = found["side_by_side"]
        assert (pair["ratings"], pair["prompts"], pair["agreement"]["value"]) == (3 * PROMPTS, PROMPTS, 1.0)
        assert [round(pair[name]["mean"], 3) for name in ("win", "tie", "loss")] == [0.667, 0.333, 0.0]
    else:
        shares = {model["model"]: model["violations"]["mean"] for model in found["safety"]}
        assert shares == {"sft": 0.5, "ppo": 0.0}


ATTACK = "<b onclick=1>how?"


def opened(page: Any, selector: str) -> None:
    """Wait for a page that has this; at its load event the keys work."""
    page.wait_for_selector(selector)
    page.wait_for_load_state()


def attack(browser: Any, link: str, size: dict[str, int]) -> None:
    """Attack over two turns with the keyboard alone, once in vain, and begin another conversation."""
    page = browser.new_context(viewport=size).new_page()
    page.set_default_timeout(90_000)
    page.goto(link)
    for text, about, degree in ((ATTACK, "1l", "1"), ("go on", "", "4")):
        opened(page, "textarea:focus")
        page.keyboard.type(text)
        for key in ("Escape", *about, "s"):
            page.keyboard.press(key)
        opened(page, "form#verdict")
        assert page.locator(".turn.user .text").first.inner_text() == ATTACK
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.keyboard.press(degree)
        opened(page, "form[action='/ask']")
    opened(page, "textarea:focus")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    opened(page, "input[name=risk]")


def test_two_people_attack_with_the_keyboard_alone(
    tmp_path: Path, model_config: ModelConfig, tokenizer: Tokenizer
) -> None:
    model = save_checkpoint(tmp_path / "model", Transformer(model_config, seed=1), tokenizer)
    (tmp_path / "rated").mkdir()
    given = ["task=red_team", f"checkpoint_a={model}", f"out={tmp_path / 'rated/out.jsonl'}", "raters=[anna,ben]"]
    with (
        Server(tmp_path, [*given, "sampling.max_new_tokens=4"]) as server,
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(**LAUNCH)
        attack(browser, server.links["anna"], DESK)
        attack(browser, server.links["ben"], PHONE)
        page = browser.new_page()
        page.goto(server.links["lead"])
        page.check("form[action='/finish'] input[type=checkbox]")
        page.click("form[action='/finish'] button")
        browser.close()
        server.end()
    ratings(RatingsConfig(str(tmp_path / "rated"), "majority", "quadratic", []))
    (found,) = json.loads((tmp_path / "rated" / "ratings.json").read_text())["red_team"]
    assert (found["people"], found["attacks"], found["gamma"]["count"]) == (2, 2, 2)
    assert found["by_turns"]["multi turn"]["mean"] == 1.0
