"""A pipeline of two rounds: the toy world's annotators rate the first, a person in a browser the second."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.stage import EXIT_WAITING
from tests.evaluation.people.browsing import LAUNCH, REPOSITORY, Server, needs_browser
from tests.evaluation.people.page import lines
from toyworld.judge import Judge, judge_of
from toyworld.world import World

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright, which drives the browser")
pytestmark = [pytest.mark.slow, needs_browser]
SAFE = {(True, True): "b", (True, False): "l", (False, True): "r", (False, False): "n"}


async def person(link: str, judge: Judge) -> None:
    """Rate everything with the keyboard, by what the gold judge thinks of the texts on the page."""
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(**LAUNCH)
        page = await browser.new_page()
        page.set_default_timeout(120_000)
        await page.goto(link)
        while await page.locator("form#verdict").count():
            item = await page.locator("input[name=item]").first.input_value()
            for key in await opinion(page, judge):
                await page.keyboard.press(key)
            await page.wait_for_function(
                "item => { const now = document.querySelector('input[name=item]'); return !now || now.value != item }",
                arg=item,
            )
        assert "Finished" in await page.locator("h2").first.inner_text()
        await browser.close()


async def opinion(page: Any, judge: Judge) -> list[str]:
    """Return the keys that say which response is better, by a gap of gold scores as the world's annotators have it."""
    roles, said = [await page.locator(f".turn .{part}").all_inner_texts() for part in ("role", "text")]
    asked = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    texts = await page.locator("article .text").all_inner_texts()
    gold = [judge.judge(asked, "" if text == "(empty)" else text) for text in texts]
    safety = await page.locator("input[name=safe]").count() > 0
    left, right = (one.safety if safety else one.helpfulness for one in gold)
    place = next((n for n, gap in enumerate((0.9, 0.45, 0.22)) if abs(left - right) >= gap), 3)
    labels = [SAFE[gold[0].safety >= 0.5, gold[1].safety >= 0.5]] if safety else []
    return [*labels, str(1 + place if left >= right else 8 - place)]


def test_it_waits_for_a_person_and_goes_on_to_its_end(tmp_path: Path) -> None:
    given = [
        *(
            "preset=tests/slurm/tiny.yaml",
            "rounds=2",
            "people_from=2",
            "ranks=1",
            "ppo=false",
            "run.wandb.mode=disabled",
        ),
        *(f"run.dir={tmp_path / 'runs'}", f"data.ratings={tmp_path / 'ratings'}"),
        *("toyworld.prompts=120", "compare.max_prompts=80", "reward.batch_pairs=8"),
    ]
    folder, rated = tmp_path / "runs/tiny", tmp_path / "ratings/v2_preferences.jsonl"

    def pipeline() -> subprocess.CompletedProcess[str]:
        environ = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        command = [sys.executable, "-m", "launch", "pipeline", *given]
        return subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True)

    waits = pipeline()
    assert waits.returncode == EXIT_WAITING, waits.stdout[-2000:] + waits.stderr[-2000:]
    ((comparisons, out),) = set(re.findall(r"collect comparisons=(\S+) out=(\S+)$", waits.stdout, re.M))
    assert out == str(rated)
    with Server(tmp_path, [f"comparisons={comparisons}", f"out={out}"]) as server:
        asyncio.run(person(server.links["rater"], judge_of(World.load(folder / "world").seed)))
        said = server.end()
    assert "The pipeline goes on with:" in said and "people_from=2" in said
    assert {row["annotator"] for row in lines(rated)} == {"rater"}
    ends = pipeline()
    assert ends.returncode == 0, ends.stdout[-2000:] + ends.stderr[-2000:]
    for kind in ("helpfulness", "safety"):
        accuracy = json.loads((folder / f"v2_accuracy_{kind}" / "accuracy.json").read_text())
        assert 0 <= accuracy["overall"]["accuracy"] <= 1, "measured on what the person rated and no model saw"
    assert (folder / "evaluate/evaluation.json").is_file()
