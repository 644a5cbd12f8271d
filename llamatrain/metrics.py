"""What a run measures: a line per step in metrics.jsonl, and the same on a wandb dashboard. The only file that imports wandb.

Rank 0 alone writes. metrics.jsonl is the record; the dashboard is a view of it, and no run fails for want of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import atomic
from .run_files import SAMPLES, Logged
from .settings import WandbConfig
from .stopping import Stopped
from .text_files import DamagedFileError, read_lines

FLUSH_SECONDS = 1.0  # metrics wait that long in memory at most while steps are made; checkpoints write them out
WANDB_SECONDS = 30  # to reach the server at the start
LESS = {"online": "offline", "offline": "disabled"}  # what is left where a mode fails


class Metrics:
    """metrics.jsonl: {"step", "time", and the step's numbers} per line; and samples.jsonl, what the model wrote meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path, self.samples = path, path.with_name(SAMPLES)
        self._file = path.open("a")
        self._flushed = time.monotonic()

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write a step's line."""
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **numbers}) + "\n")
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand the lines over to the system."""
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is left; a full disk shows here."""
        self._file.close()

    def in_place(self) -> bool:
        """Tell whether what is written here still goes into the file of that name."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def after(self, step: int) -> list[dict[str, Any]]:
        """Return the lines of the steps after `step`."""
        self.flush()
        return [{**row} for row in self._rows(self.path) if row["step"] > step]

    def log_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows with a step to samples.jsonl."""
        with self.samples.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def cut(self, step: int) -> None:
        """Drop what lies after a checkpoint's step, samples too, so that a resumed run leaves no doubles."""
        self._file.close()
        for path in (self.path, self.samples):
            if path.exists():
                with atomic.replacing(path) as kept:
                    for row in self._rows(path):
                        if row["step"] <= step:
                            kept.write(f"{json.dumps(row, ensure_ascii=path is self.path)}\n".encode())
        self._file = self.path.open("a")

    def _rows(self, path: Path) -> Iterator[Logged]:
        def bad(error: DamagedFileError) -> None:
            print(f"warning: {error}; it is left out", file=sys.stderr)

        return read_lines(path, Logged, bad=bad, grows=True)


class Dashboard:
    """A run on wandb, opened before the work begins so that a missing login shows at once."""

    def __init__(self, config: WandbConfig, folder: Path, run_id: str, name: str, program: str, settings: Any) -> None:
        """Open it as `config.mode` says. Without a login or the network: one line, and the run goes on offline."""
        os.environ.setdefault("WANDB_SILENT", "true")
        _lend_home(folder / "wandb")
        about = {"id": run_id, "name": name, "job_type": program, "config": settings, "dir": str(folder)}
        where = {"project": config.project, "entity": config.entity, "group": config.group, "tags": config.tags}
        self._run: Any = _opened(config.mode, {**about, **where})
        self._charted = self._run.starting_step - 1  # above 0 where the dashboard knows the run
        self._tell(lambda run: run.define_metric("step", hidden=True))
        self._tell(lambda run: run.define_metric("*", step_metric="step"))

    def log(self, step: int, again: int, numbers: Mapping[str, float]) -> None:
        """Chart a step's numbers; `again` is how many of the steps so far were made a second time."""
        # wandb drops a step that is not above its last, as after going back: its own count goes on, and the charts are
        # drawn over ours. Offline it does not know where an earlier process of the run ended.
        self._charted = max(step + again, self._charted + 1)
        self._tell(lambda run: run.log({"step": step, **numbers}, step=self._charted))

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show what the model in training wrote, as a table at the step that was charted last."""

        def table(run: Any) -> None:
            import wandb

            shown = [[row["step"], row["messages"][-1]["content"], row["response"]] for row in rows]
            made = wandb.Table(columns=["step", "prompt", "response"], data=shown)
            run.log({"samples": made}, step=self._charted)

        self._tell(table)

    def summarise(self, numbers: Mapping[str, float]) -> None:
        """Show the numbers of a program without steps in the run's summary."""
        self._tell(lambda run: run.summary.update(dict(numbers)))

    def finish(self, failed: bool) -> None:
        """Send what is left and end wandb's own process."""
        self._tell(lambda run: run.finish(exit_code=int(failed)))

    def _tell(self, work: Callable[[Any], None]) -> None:
        """Do what wandb is asked for; where it died the run goes on without it."""
        if self._run is None:
            return
        try:
            work(self._run)
        except Stopped:
            raise
        except Exception as error:  # wandb's own, of which there are many, and the system's
            self._run = None
            print(f"run.wandb: {_reason(error)}; continuing without a dashboard", file=sys.stderr, flush=True)
            _end_wandb()


@dataclass(frozen=True)
class Shown:
    """What a dashboard shows of a whole pipeline: tables by name (columns, rows), numbers, and a page."""

    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]
    numbers: Mapping[str, float]
    page: Path


def publish(config: WandbConfig, folder: Path, name: str, shown: Shown) -> bool:
    """Put a pipeline's tables and its page on wandb, as a run of its own beside its stages'; tell whether that went well.

    The same folder's is the same run: what it showed is replaced.
    """
    run_id = f"report_{hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:8]}"
    board = Dashboard(config, folder, run_id, name, "report", {})

    def show(run: Any) -> None:
        import wandb

        tables = {key: wandb.Table(columns=list(head), data=list(rows)) for key, (head, rows) in shown.tables.items()}
        run.log(tables)
        run.summary.update(dict(shown.numbers))
        artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", f"report-{name}"), type="report")
        artifact.add_file(str(shown.page))
        run.log_artifact(artifact)

    board._tell(show)
    board.finish(failed=False)
    return board._run is not None


def _opened(mode: str, about: Mapping[str, Any]) -> Any:
    import wandb

    settings = wandb.Settings(
        console="off", silent=True, disable_git=True, x_disable_stats=False, init_timeout=WANDB_SECONDS
    )
    try:
        return wandb.init(**about, resume="allow", mode=mode, settings=settings)  # type: ignore[arg-type]
    except Stopped:
        raise
    except Exception as error:  # wandb's own, of which there are many, and the system's
        less = LESS[mode]
        print(
            f"run.wandb.mode={mode}: {_reason(error)}; continuing with run.wandb.mode={less}",
            file=sys.stderr,
            flush=True,
        )
        _end_wandb()  # its process would still hold the run's id
        return _opened(less, about)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _end_wandb() -> None:
    """End wandb's own process, which may have died, and its work at our exit."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


def _lend_home(folder: Path) -> None:
    """Let wandb keep its files in `folder` where the user has no home, as in some containers."""
    try:
        Path.home()
    except RuntimeError:
        for kind in ("CONFIG", "CACHE", "DATA"):
            os.environ.setdefault(f"WANDB_{kind}_DIR", str(folder))
