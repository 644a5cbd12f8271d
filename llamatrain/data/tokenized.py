"""Rows of sources as tokens: made once on all cores, kept in a cache (`cache`), and mapped into memory.

A source's rows are tokenized whole, whatever share of them a run means, so that folds share them. Processes each take a
part of the source and hand their rows back in order. What was wrong with rows is kept beside their tokens, and told
again whenever they are read. Imports no torch: every process would hold it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

import llamatrain
from llamatrain import chat, heartbeat, tokenizer
from llamatrain.data import rows
from llamatrain.data.cache import UNKEPT, Blocks, Cache, Columns, Table, in_memory
from llamatrain.data.encoding import PREFERENCES, Encoding
from llamatrain.data.folds import split_share
from llamatrain.data.kinds import KINDS
from llamatrain.data.order import Places
from llamatrain.data.rows import Part
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.progress import Progress
from llamatrain.tokenizer import Tokenizer

PART_BYTES = 4 << 20  # of a source that a process takes at a time; a smaller source is not worth another process
PART_ROWS = 10_000  # of a data set of the hub


@dataclass(frozen=True)
class Rows:
    """Tokenized rows of some tables, in an order of their own: the table of each, and its number there."""

    tables: tuple[Table, ...]
    table: NDArray[np.int32]
    row: Places

    def __len__(self) -> int:
        return len(self.row)

    def __add__(self, other: Rows) -> Rows:
        table = np.concatenate([self.table, other.table + np.int32(len(self.tables))])
        return Rows(self.tables + other.tables, table, np.concatenate([self.row, other.row]))

    def take(self, numbers: NDArray[Any]) -> Rows:
        """Return some of the rows, by number or as a mask."""
        return Rows(self.tables, self.table[numbers], self.row[numbers])

    def column(self, name: str) -> NDArray[Any]:
        """Return a column's number of every row."""
        found = np.empty(len(self), self.tables[0][name].dtype)
        for number, table in enumerate(self.tables):
            own = self.table == number
            found[own] = table[name][self.row[own]]
        return found

    def span(self, number: int) -> tuple[Table, slice]:
        """Return where the tokens of a row stand: in a column of the table."""
        table, row = self.tables[self.table[number]], self.row[number]
        return table, slice(int(table["starts"][row]), int(table["starts"][row + 1]))

    def spans(self) -> Iterator[tuple[Table, slice]]:
        """Yield where the tokens of all rows stand, in order; rows that follow each other there at once."""
        if not len(self):
            return
        breaks = np.flatnonzero((np.diff(self.row) != 1) | (np.diff(self.table) != 0)) + 1
        for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(self)], strict=True):
            table, row = self.tables[self.table[first]], self.row[first]
            yield table, slice(int(table["starts"][row]), int(table["starts"][row + end - first]))

    def where(self, number: int) -> str:
        """Return where a row stands, for messages: `file:line`."""
        table = self.tables[self.table[number]]
        return f"{table.notes['place']}{table['number'][self.row[number]]}"

    @property
    def key(self) -> str:
        """What tells these rows, in this order, from others."""
        digest = hashlib.sha256(self.table.tobytes() + self.row.tobytes())
        return f"{digest.hexdigest()} of {' '.join(table.key for table in self.tables)}"


def of_sources(sources: Sequence[str], how: Encoding, bad: BadRows, cached: Cache = UNKEPT) -> Rows:
    """Return the rows of sources (`rows`), one after the other; each must have one. Bad rows go to `bad`."""
    found = Rows((), np.empty(0, np.int32), np.empty(0, np.int64))
    for source in sources:
        found += _of_source(source, how, bad, cached)
    return found


def of_rows(given: Iterable[Any], how: Encoding) -> Rows:
    """Return rows that were read already, held in memory; they are named by their number, and their table has no key."""

    def build() -> Blocks:
        starts = _Starts()
        yield starts.none()
        yield how.empty()
        for block in how.blocks(enumerate(given, start=1)):
            yield starts.put(block)
        return {"place": f"{how.kind} "}

    return _all(in_memory("", build()))


def _all(table: Table) -> Rows:
    count = len(table["starts"]) - 1
    return Rows((table,), np.zeros(count, np.int32), np.arange(count, dtype=np.int64))


def _of_source(source: str, how: Encoding, bad: BadRows, cached: Cache) -> Rows:
    name, share = split_share(source)
    if share is not None and share.adversarial is not None and how.kind != "dialogue":
        raise UserError(f"{source}: a share of adversarial rows is for dialogues and prompts; need preferences without")
    about = {
        "source": name,
        "content": rows.file_fingerprint(name),
        "tokenizer": how.tokenizer.fingerprint,
        **how.settings,
        "code": _code(),
    }
    table = cached.table(about, lambda: _tokenized(name, how, bad.policy, cached.show))
    left_out = BadRows.of(table.notes["bad"])
    bad.join(left_out)
    found = _all(table)
    if share is not None:
        kinds = None if share.kind is None else np.asarray(PREFERENCES)[found.column("kind")]
        places = None if share.adversarial is None else found.column("adversarial")
        found = found.take(share.among(found.column("conversation"), kinds, places))
    if not len(found):
        raise rows.nothing(source, KINDS[how.kind], next(iter(left_out.first.values()), ""))
    bad.good += len(found)
    return found


@cache
def _code() -> str:
    """Return a hash of what makes rows and tokens: what another version of it made is of no use."""
    digest = hashlib.sha256(sentencepiece.__version__.encode())
    for path in [*sorted(Path(__file__).parent.glob("*.py")), Path(chat.__file__), Path(tokenizer.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Starts:
    """Adds to blocks of rows where each row's tokens begin in the whole."""

    def __init__(self) -> None:
        self.end = 0

    def none(self) -> Columns:
        return {"starts": np.zeros(1, np.int64)}

    def put(self, block: Columns) -> Columns:
        ends = self.end + np.cumsum(block["length"], dtype=np.int64)
        self.end = int(ends[-1]) if len(ends) else self.end
        return {**block, "starts": ends}


def _tokenized(name: str, how: Encoding, policy: str | None, show: bool) -> Blocks:
    """Yield the tokenized rows of a source; notes where they stand and what was wrong with others."""
    parts = rows.split_loaded(name, PART_BYTES, PART_ROWS)
    starts, bad, before, part = _Starts(), BadRows(policy), 0, 0
    yield starts.none()
    yield how.empty()
    workers = min(len(parts), len(os.sched_getaffinity(0)))
    made = _on_cores(parts, how, policy, workers) if workers > 1 else _here(parts, how, policy)
    with Progress(rows.count_rows(name), f"tokenizing {name}", "rows", show=show and len(parts) > 1) as bar:
        for block in made:
            heartbeat.beat("read")
            if isinstance(block, BadRows):  # the end of a part
                bad.join(block)
                before, part = before + rows.count_part(parts[part]), part + 1
                continue
            block["number"] += before
            bar.update(len(block["number"]))
            yield starts.put(block)
    return {"place": rows.place(Part(name)), "bad": bad.content()}


def _here(parts: Sequence[Part], how: Encoding, policy: str | None) -> Iterator[Columns | BadRows]:
    """Yield blocks of the parts' rows, and at the end of each part what was wrong in it."""
    for part in parts:
        bad = BadRows(policy)
        yield from how.blocks(rows.read_part(part, KINDS[how.kind], bad))
        yield bad


# --- on all cores ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What one process does."""

    tokenizer: Path
    settings: dict[str, Any]
    parts: list[Part]
    policy: str | None


def _on_cores(parts: Sequence[Part], how: Encoding, policy: str | None, workers: int) -> Iterator[Columns | BadRows]:
    """Yield what `_here` yields, in the same order, made by processes: every so many parts each."""
    with _processes(parts, how, policy, workers) as pipes:
        for number in range(len(parts)):
            while True:
                try:
                    block = pickle.load(pipes[number % workers])
                except (EOFError, pickle.UnpicklingError):
                    raise RuntimeError(
                        "a process that tokenizes has ended, most likely killed for want of memory"
                    ) from None
                if isinstance(block, Exception):
                    raise block
                yield block
                if isinstance(block, BadRows):
                    break


@contextmanager
def _processes(parts: Sequence[Part], how: Encoding, policy: str | None, workers: int) -> Iterator[list[IO[bytes]]]:
    """Start fresh processes (a fork would copy locks that threads hold), which end with this one; yield their output."""
    path = f"{Path(llamatrain.__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", __name__]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(workers):
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment))
            job = _Job(how.tokenizer.path, how.settings, list(parts[number::workers]), policy)
            with suppress(BrokenPipeError):  # it has ended already, as its output shows
                _input(started[-1]).write(pickle.dumps(job))
                _input(started[-1]).flush()
        yield [process.stdout for process in started if process.stdout is not None]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def _input(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdin is not None
    return process.stdin


def _work() -> None:
    """Do the job on standard input, until that ends; blocks go to standard output."""
    job: _Job = pickle.load(sys.stdin.buffer)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    out = sys.stdout.buffer
    try:
        for block in _here(job.parts, Encoding(tokenizer=Tokenizer(job.tokenizer), **job.settings), job.policy):
            pickle.dump(block, out)
            out.flush()
    except (UserError, OSError) as error:
        pickle.dump(error, out)
    except Exception:  # a fault of ours, which the other end takes for a kill
        traceback.print_exc()
    out.flush()
    os._exit(0)  # the thread holds standard input, which an exit in order would wait for


if __name__ == "__main__":
    from llamatrain.data.tokenized import _work as work  # under its name, as the other end knows it

    work()
