"""What is collected: a page's items, the verdicts in the store, and the file of rows that they make."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamatrain.chat import Message
from llamatrain.data.rows import file_fingerprint, write_rows
from llamatrain.errors import UserError

from .config import CollectConfig
from .store import Item, Rater, Store, Verdict
from .task import Task, Unclear

LEADER = "lead"
FINISHED = "finished"


class Collection:
    """A task with its store and its files: what the server works on."""

    def __init__(self, cfg: CollectConfig, task: Task, store: Store) -> None:
        """Add what is to be rated, invite the raters, and bring the rows so far in line with the verdicts."""
        self.cfg, self.task, self.store = cfg, task, store
        self.out, self.so_far = Path(cfg.out), store.path.parent / "so_far.jsonl"
        self.finished = threading.Event()
        self._asking = threading.Lock()
        self._lock = threading.RLock()  # what is published holds all verdicts that were taken, and no later one is
        # Before the items are read: another run's store is refused as it lies.
        named = (cfg.comparisons, cfg.gold, *cfg.responses.values(), *cfg.prompts)
        sources = [file_fingerprint(source) for source in named if source is not None]
        told = json.dumps([cfg.task, cfg.seed, cfg.kind, sources])
        if store.remember("made from", told) != told:
            raise UserError(
                f"out={cfg.out}: {store.path.parent} holds verdicts on other items or for another task, seed or kind; "
                "need those, or another out"
            )
        store.add(task.items())
        self.items = store.items()
        store.invite(LEADER, leads=True)
        for name in cfg.raters:
            store.invite(name)
        write_rows(self.so_far, self.rows())
        if store.fact(FINISHED) is not None or self._complete():
            self.finish()

    def row(self, verdict: Verdict) -> dict[str, Any] | None:
        """Return a verdict as a row of the file; None of gold items, and where it holds nothing to use."""
        item = self.items[verdict.item]
        return None if item.known is not None else self.task.row(item, verdict)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows so far."""
        return [row for row in map(self.row, self.store.verdicts()) if row is not None]

    def say(self, rater: Rater, item: Item, key: str, content: Mapping[str, Any]) -> bool:
        """Keep a verdict, on the disk when this returns; tell whether it is a new one."""
        with self._lock:
            verdict = None if self.finished.is_set() else self.store.record(item.id, rater.name, key, dict(content))
            if verdict is None:
                return False
            row = self.row(verdict)
            if row is not None:
                _append(self.so_far, row)
            if self._complete():
                self.finish()
        return True

    def ask(self, rater: Rater, form: Mapping[str, str]) -> Item:
        """Return an item of what a rater wrote and models answer to it; of a form that came before, the one it made.

        Unclear, or UserError for a text that the chat format does not take, where there is none.
        """
        name = f"asked-{form.get('key', '')}"
        with self._asking:  # the second press of a button waits for the first
            found, text = self.store.item(name), form.get("text", "").strip()
            if found is not None:
                return found
            if not self.task.asks or not text or not form.get("key"):
                raise Unclear("Write what the model is to answer.")
            verdict, earlier, before = self.conversation(rater, form.get("follows", "")) or (None, [], None)
            content = self.task.answered([*earlier, {"role": "user", "content": text}], form, form["key"], before)
            item = Item(name, content, owner=rater.name, follows=None if verdict is None else verdict.number)
            self.store.add([item])
            self.items[name] = item
            return item

    def conversation(self, rater: Rater, number: str) -> tuple[Verdict, list[Message], Item] | None:
        """Return a verdict of a rater's with the conversation that goes on from it, and the item that it is about."""
        verdict = self.store.verdict(rater.name, int(number)) if number.isdigit() and self.task.asks else None
        if verdict is None:
            return None
        item = self.items[verdict.item]
        messages = None if item.known is not None else self.task.going_on(item, verdict)
        return None if messages is None else (verdict, messages, item)

    def undo(self, rater: Rater, number: int) -> None:
        """Take a verdict back; once the file is published none can be."""
        with self._lock:
            if not self.finished.is_set() and self.store.undo(rater.name, number):
                write_rows(self.so_far, self.rows())

    def _complete(self) -> bool:
        done, wanted = self.store.progress(self.cfg.each)
        return not self.task.asks and done == wanted and bool(self.rows())

    def finish(self) -> None:
        """Publish the rows under their final name; from here on no verdict is taken."""
        with self._lock:
            rows = self.rows()
            if not rows:
                raise UserError("nothing to publish: no verdict so far holds a row")
            self.store.remember(FINISHED, time.strftime("%Y-%m-%d %H:%M:%S"))
            write_rows(self.out, rows)
            self.finished.set()


def _append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line and bring it to the disk; after a kill the file is written from the store."""
    with path.open("ab") as file:
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
