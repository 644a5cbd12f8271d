"""Spans of a program's start, taken from outside: python imports this by its name where the folder is on PYTHONPATH.

With STARTUP_TRACE=<folder> the imports of top-level packages and the functions of SPANS are timed, on the main thread,
and written to <folder>/<pid>.json when rank 0 ends: [part, start, end] on the monotonic clock and the processor time at
the start, inner spans before outer ones, and when each interpreter was ready (a program's command line becomes the program). Programs know nothing of it.
"""

from __future__ import annotations

import atexit
import functools
import importlib.machinery
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

READY = "STARTUP_TRACE_READY"
# Module -> its functions, each with the part of the start that its time counts as.
SPANS = {
    "llamatrain.config.compose": {"compose": "configuration"},
    "llamatrain.distributed": {"setup": "process group"},
    "llamatrain.tokenizer": {"Tokenizer.__init__": "data"},
    "llamatrain.data.sequences": {"TokenBatches.__init__": "data"},
    "llamatrain.data.dialogues": {"DialogueBatches.__init__": "data"},
    "llamatrain.data.tokenized": {"of_sources": "data"},
    "llamatrain.data.rows": {"file_fingerprint": "data"},
    "reward.data": {"load_pairs": "data", "PairBatches.__init__": "data"},
    "llamatrain.responses.prompts": {"load_prompts": "data", "prompts_fingerprint": "data"},
    "llamatrain.responses.rollouts": {"sample_rollouts": "sampling"},
    "llamatrain.checkpoint": {"resolve": "parents verified"},
    "llamatrain.hf_folder": {"load_model": "model"},
    "llamatrain.engine.learning": {"import_deepspeed": "engine", "Engine.__init__": "engine"},
    "llamatrain.engine.models": {"build": "model"},
    "llamatrain.engine.state": {"NamedState.load_parameters": "model"},
    "deepspeed": {"initialize": "engine"},
    "llamatrain.run": {"Run.__init__": "run folder", "Run.log": "log"},
    "llamatrain.fit": {"train_step": "step"},
}

spans: list[tuple[str, float, float, float]] = []


def main() -> None:
    """Watch imports from here on, and write at the end."""
    os.environ[READY] = f"{os.environ.get(READY, '')} {time.monotonic()}".strip()
    sys.meta_path.insert(0, _Watch)
    atexit.register(_write, Path(os.environ["STARTUP_TRACE"]) / f"{os.getpid()}.json")


def _write(path: Path) -> None:
    if os.environ.get("RANK", "0") == "0":
        ready = [float(moment) for moment in os.environ[READY].split()]
        path.write_text(json.dumps({"ready": ready, "spans": spans}))


def _timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        started, busy = time.monotonic(), time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            if threading.current_thread() is threading.main_thread():
                spans.append((part, started, time.monotonic(), busy))

    return timed


class _Watch:
    """A finder that finds what the others do, and times it."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a top-level package, or of a module with functions to time; leave the rest to others."""
        if "." in name and name not in SPANS:
            return None
        for finder in sys.meta_path:
            spec = None if finder is cls else finder.find_spec(name, path, target)
            if spec is not None:
                break
        else:
            return None
        if spec.loader is None or isinstance(spec.loader, type):  # a namespace; built in or frozen
            return spec
        execute = spec.loader.exec_module
        if "." not in name:
            execute = _timed(f"import {name}", execute)
        spec.loader.exec_module = functools.partial(_execute, name, execute)  # type: ignore[method-assign]
        return spec


def _execute(name: str, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    execute(module)
    for path, part in SPANS.get(name, {}).items():
        *owners, attribute = path.split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        setattr(owner, attribute, _timed(part, getattr(owner, attribute)))


if os.environ.get("STARTUP_TRACE"):
    main()
