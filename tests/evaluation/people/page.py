"""Comparisons to rate, and a client of the pages that reads their forms as a browser does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from evaluation.people.collect import task_of
from evaluation.people.collection import Collection
from evaluation.people.config import CollectConfig
from evaluation.people.server import app_of
from evaluation.people.store import Store
from llamatrain.config.compose import compose


def comparison(number: int, adversarial: bool = False, **more: Any) -> dict[str, Any]:
    """Return a row of comparisons.jsonl."""
    return {
        "id": f"pair-{number}",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "response_a": f"answer {number} of a",
        "response_b": f"answer {number} of b",
        "model_a": "old",
        "model_b": "new",
        "temperature_a": 0.7,
        "temperature_b": 1.0,
        "is_adversarial": adversarial,
        **more,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(folder: Path, rows: list[dict[str, Any]], *overrides: str) -> CollectConfig:
    """Return the settings to rate some comparisons."""
    source = write(folder / "comparisons.jsonl", rows)
    given = [f"comparisons={source}", f"out={folder / 'out.jsonl'}", *overrides]
    return compose("collect", CollectConfig, given)


def collection(cfg: CollectConfig) -> Collection:
    """Return what the server works on, opened as at the program's start."""
    folder = Path(cfg.out).with_suffix("")
    return Collection(cfg, task_of(cfg), Store(folder / "verdicts.sqlite"))


class Browser:
    """A rater's browser: what the page shows, and its forms."""

    def __init__(self, opened: Collection, name: str) -> None:
        self.client = TestClient(app_of(opened))
        token = next(rater.token for rater in opened.store.raters() if rater.name == name)
        self.page = self.client.get(f"/join/{token}").text

    def hidden(self, action: str) -> dict[str, str]:
        """Return the hidden fields of the form with this address."""
        form = next(f for f in re.findall(r"<form.*?</form>", self.page, re.S) if f'action="{action}"' in f)
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))

    def send(self, action: str, form: dict[str, str]) -> int:
        """Send a form; return the status of what comes then."""
        answer = self.client.post(action, data=form)
        self.page = answer.text
        return answer.status_code

    def rate(self, rating: str, **more: str) -> int:
        """Press a button of the page that is open."""
        return self.send("/verdict", {**self.hidden("/verdict"), "rating": rating, **more})

    def undo(self) -> int:
        """Take the last verdict back."""
        return self.send("/undo", self.hidden("/undo"))

    @property
    def responses(self) -> list[str]:
        """What stands left and right."""
        return re.findall(r'<article><h2>\w+</h2><div class="text" dir="auto">(.*?)</div>', self.page, re.S)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
