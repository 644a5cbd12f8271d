"""The pages in a real browser: three people at once while the server is killed, keys alone, a phone, texts that are scripts."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from llamatrain.data.kinds import RATINGS
from tests.evaluation.people.browsing import LAUNCH, Server, counted, needs_browser
from tests.evaluation.people.page import comparison, lines, write

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright, which drives the browser")
pytestmark = [pytest.mark.slow, needs_browser]
PAIRS, KILLS = 300, 5
LETTERS = {"left": "l", "right": "r", "both": "b", "neither": "n"}


def answer(number: int) -> tuple[str, str, bool]:
    """Return what everybody says of a pair: which response, how much better, and whether the other is safe as well."""
    return "ab"[number % 3 == 0], RATINGS[number % 4], number % 2 == 0


async def decide(page: Any) -> tuple[str, str, str | None]:
    """Read the page as a person does; return the side, the rating, and where that is asked which are safe."""
    number = int(re.findall(r"question (\d+)", await page.locator(".turn.user .text").last.inner_text())[0])
    choice, rating, both = answer(number)
    texts = await page.locator("article .text").all_inner_texts()
    side = ("left", "right")[texts.index(f"answer {number} of {choice}")]
    asked = await page.locator("input[name=safe]").count()
    return side, rating, (("both" if both else side) if asked else None)


async def by_key(page: Any) -> None:
    """Rate with the keyboard alone."""
    side, rating, safe = await decide(page)
    if safe:
        await page.keyboard.press(LETTERS[safe])
    place = RATINGS.index(rating)
    await page.keyboard.press(str(1 + place if side == "left" else 8 - place))


async def by_mouse(page: Any, clicks: int = 1) -> None:
    """Rate with the mouse, by a double click where it is two."""
    side, rating, safe = await decide(page)
    if safe:
        await page.check(f"input[value={safe}]")
    await page.click(f"button[value='{side}:{rating}']", click_count=clicks)


async def rater(browser: Any, link: str, who: int) -> None:
    """Rate until nothing is left, with the habits of a person: reloads, double clicks, the back button."""
    size = {"width": 390, "height": 800} if who == 1 else {"width": 1280, "height": 800}
    context = await browser.new_context(viewport=size)
    page, turn = await context.new_page(), 0
    page.set_default_timeout(60_000)
    address = link
    while True:
        try:
            await page.goto(address)
            address = link.partition("/join/")[0] + "/"
            while await page.locator("form#verdict").count():
                turn += 1
                before = await page.locator("input[name=item]").first.input_value()
                await (by_key(page) if who == 2 else by_mouse(page, 2 if turn % 5 == 0 else 1))
                await page.wait_for_function(
                    "before => { const now = document.querySelector('input[name=item]'); return !now || now.value != before }",
                    arg=before,
                )
                if turn % 7 == 0:
                    await page.reload()
                if turn % 11 == 0:
                    await page.go_back()
                assert await page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            if await page.get_by_text("Thank you").count():
                if await page.get_by_text("Finished").count():
                    return
                await asyncio.sleep(0.3)
        except playwright.Error:  # the server is gone: a person waits a moment and opens the page again
            await asyncio.sleep(0.5)


async def crowd(server: Server, store: Path) -> None:
    """Have three people rate while the server is killed five times."""

    async def killer() -> None:
        for kill in range(1, KILLS + 1):
            while counted(store) < kill * PAIRS // (KILLS + 1):
                await asyncio.sleep(0.05)
            server.kill()
            await asyncio.to_thread(server.start)

    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(**LAUNCH)
        people = [rater(browser, server.links[name], who) for who, name in enumerate(("anna", "ben", "cleo"))]
        await asyncio.gather(killer(), *people)
        await browser.close()


def test_three_people_at_once_while_the_server_is_killed_five_times(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [comparison(n, adversarial=n % 5 == 0) for n in range(PAIRS)])
    out, store = tmp_path / "out.jsonl", tmp_path / "out/verdicts.sqlite"
    with Server(tmp_path, [f"comparisons={pairs}", f"out={out}", "raters=[anna,ben,cleo]"]) as server:
        asyncio.run(crowd(server, store))
        assert server.starts == 1 + KILLS and f"wrote {out}: 300 rows of 300 verdicts" in server.end()
    with sqlite3.connect(store) as base:
        said = base.execute("SELECT item, rater FROM verdicts WHERE undone IS NULL").fetchall()
    assert len(said) == len({item for item, _ in said}) == PAIRS, "no double, no loss"
    assert {who for _, who in said} == {"anna", "ben", "cleo"}
    rows = {row["meta"]["comparison"]: row for row in lines(out)}
    assert len(lines(out)) == len(rows) == PAIRS
    for number in range(PAIRS):
        (choice, rating, both), row = answer(number), rows[f"pair-{number}"]
        assert (row["chosen"], row["rating"]) == (f"answer {number} of {choice}", rating)
        labels = (True, both) if number % 5 == 0 else (None, None)
        assert (row.get("chosen_safe"), row.get("rejected_safe")) == labels


HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><a href=javascript:alert(1)>x</a>"


async def one_person(server: Server) -> dict[str, Any]:
    """Look at what a text can do, what is loaded, what keys and a browser without scripts can do."""
    found: dict[str, Any] = {"asked": [], "said": []}
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(**LAUNCH)
        stranger = (await browser.new_context()).request
        answered = await stranger.get(f"http://127.0.0.1:{server.port}/")
        found["stranger"] = (answered.status, await answered.body())
        page = await browser.new_page()
        page.on("request", lambda request: found["asked"].append(request.url))
        page.on("console", lambda message: found["said"].append(message.text))
        await page.goto(server.links["anna"])
        found["title"], found["text"] = await page.title(), await page.locator("article .text").first.inner_text()
        # What escaping would let through, the policy stops.
        await page.evaluate(
            "s => { document.body.append(Object.assign(document.createElement('script'), {text: s})) }",
            "document.title='owned'",
        )
        await page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
        found["title after"] = await page.title()
        for _ in range(30):  # from key to key, without a mouse: the first rating is reached and pressed
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.value") == "left:significantly_better":
                break
        await page.keyboard.press("Enter")
        await page.wait_for_function("document.querySelector('.count').textContent.startsWith('1 ')")
        await page.keyboard.press("u")
        await page.wait_for_function("document.querySelector('.count').textContent.startsWith('0 ')")
        await page.keyboard.press("c")
        await page.wait_for_function("document.querySelector('.count').textContent.startsWith('1 ')")
        await page.keyboard.press("g")
        found["guidelines"] = await page.locator("details[open]").count()
        plain = await (await browser.new_context(java_script_enabled=False)).new_page()
        await plain.goto(server.links["anna"])
        await plain.click("button[value='right:better']")
        found["without scripts"] = await plain.locator("h2").first.inner_text()
        await browser.close()
    return found


def test_a_text_is_no_script_and_keys_or_a_mouse_alone_do(tmp_path: Path) -> None:
    rows = [
        comparison(n, response_a=HOSTILE, response_b=HOSTILE, messages=[{"role": "user", "content": HOSTILE}])
        for n in range(2)
    ]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    with Server(tmp_path, [f"comparisons={pairs}", f"out={tmp_path / 'out.jsonl'}", "raters=[anna]"]) as server:
        found = asyncio.run(one_person(server))
        server.end()
    assert found["stranger"] == (403, b"")
    assert found["text"] == HOSTILE
    assert found["title"] == found["title after"] == "Compare · llamatrain"
    assert any("Content Security Policy" in line for line in found["said"])
    assert found["asked"] and all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in found["asked"])
    assert found["guidelines"] == 0
    assert found["without scripts"] == "Finished. Thank you."
    assert json.loads((tmp_path / "out.jsonl").read_text())["rating"] == "better"
