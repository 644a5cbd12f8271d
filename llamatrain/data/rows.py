"""Rows: JSON objects of the project's `kinds`, read from files or through an adapter, and checked.

A source is spelled

    PATH                a file of our own fields: .jsonl, .parquet, .txt, also .gz or .zst (`llamatrain.data.files`)
    ADAPTER:PATH        a file of somebody else's (`llamatrain.data.adapters`)
    paragraphs:PATH     plain text, documents with blank lines between them
    ADAPTER:NAME        a data set of the Hugging Face hub, NAME being owner/name[/folder][:split]
    hf:NAME             a data set of the hub, or a local folder, with our own fields

and may end in `@fold0/5`, the first fifth of its rows by a hash of the prompt, or `@without0/5`, all others: cross
validation. Rows of one conversation, identified by its first user message, always fall into one fold. Before that may
stand `@helpfulness` or `@safety`: of preferences, those of that kind. After it may stand `@adversarial10%`: of the
adversarial rows a tenth, by a hash of the whole conversation, so that a smaller share lies within every larger one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from llamatrain import atomic, heartbeat
from llamatrain.data import adapters, files, hub
from llamatrain.data.files import Place, Row
from llamatrain.data.folds import split_share
from llamatrain.data.hub import NEWEST, Version
from llamatrain.data.kinds import FIELDS, PromptRow, check_row, name_of
from llamatrain.data.skipped import BadRows, LeftOut
from llamatrain.errors import MissingFileError, UserError

if TYPE_CHECKING:  # numpy: programs that only tell of themselves do without it
    pass

R = TypeVar("R")  # a kind of rows


def read_rows(source: str | Path, kind: type[R], bad: BadRows | None = None) -> Iterator[R]:
    """Yield the checked rows of a source (see the module's docstring) as a kind (`kinds`); it must have one at least.

    An optional field that is null counts as absent. Raises MissingFileError, or UserError naming file, line, field,
    what was found and what is needed; `bad` says what becomes of bad rows instead.
    """
    for _, row in placed_rows(source, kind, bad):
        yield row


def placed_rows(source: str | Path, kind: type[R], bad: BadRows | None = None) -> Iterator[tuple[str, R]]:
    """Yield the rows as `read_rows` does, each with where it stands, for messages: `file:line`."""
    part = Part(str(source))
    bad = bad or BadRows()
    where = None
    for number, row in read_part(part, kind, bad):
        heartbeat.beat("read")
        where = where or place(part)
        bad.good += 1
        yield f"{where}{number}", row
    if where is None:
        raise nothing(part.source, kind, next(iter(bad.first.values()), ""))


def look(source: str | Path, kind: type[Any], first: bool = True) -> None:
    """Raise what reading a source would fail on at once: no such file or adapter, none for this kind, or a bad first row.

    A data set of the hub is not asked for.
    """
    adapter = _split_adapter(split_share(str(source))[0])[0]
    if adapter is not None and name_of(kind) not in adapters.ADAPTERS[adapter]:
        raise _no_such_rows(str(source), adapter, kind)
    if local_file(str(source)) is not None and first:
        next(read_rows(source, kind))


@dataclass(frozen=True)
class Part:
    """A piece of a source that can be read on its own; begin and end are the file format's (`files.split`).

    `text` names the field that holds a document's text where that is not `text`. Of a data set of the hub they count its
    shards, or where it is `loaded` its rows.
    """

    source: str
    begin: int = 0
    end: int | None = None
    text: str | None = None
    version: Version = NEWEST
    loaded: bool = False


def split(source: str | Part, part_bytes: int) -> list[Part]:
    """Return the parts of a source, or of a part that is a whole source, of about `part_bytes` where its format allows it."""
    whole = Part(source) if isinstance(source, str) else source
    adapter, path = _split_adapter(split_share(whole.source)[0])
    if adapter is not None and not _is_file(path):
        count = hub.hub_shards(path, whole.version)
        return [replace(whole, begin=number, end=number + 1) for number in range(count)]
    ends = files.split(_existing(path), part_bytes, adapter == "paragraphs")
    return [replace(whole, begin=begin, end=end) for begin, end in ends]


def split_loaded(source: str, part_bytes: int, part_rows: int) -> list[Part]:
    """Return the parts of a source as `split` does; a data set of the hub is loaded, and a part is some of its rows."""
    if local_file(source) is not None:
        return split(source, part_bytes)
    count = count_rows(source)
    return [Part(source, row, min(row + part_rows, count), loaded=True) for row in range(0, max(1, count), part_rows)]


def stamp(whole: Part) -> list[Any]:
    """Return what tells whether a source changed: a file's size and time, or the hash of a data set's files and commits."""
    path = local_file(whole.source)
    if path is not None:
        return [path.stat().st_size, path.stat().st_mtime_ns]
    return [hub.hub_stamp(_split_adapter(split_share(whole.source)[0])[1], whole.version)]


def local_file(source: str) -> Path | None:
    """Return the file a source names, which must exist; None for a data set of the hub."""
    adapter, path = _split_adapter(split_share(source)[0])
    return None if adapter is not None and not _is_file(path) else _existing(path)


def place(part: Part) -> str:
    """Return what, with a row's number after it, names a row of the part's file; of a hub's shard, of that shard."""
    path = local_file(part.source)
    if path is None:
        return f"{_split_adapter(split_share(part.source)[0])[1]}, shard {part.begin}, row "
    return f"{path}{', row ' if path.suffix == '.parquet' else ':'}"


def row_number(where: str) -> int:
    """Return the number, from 1, of the raw row that stands where `placed_rows` says."""
    return int(re.split(r"\D", where)[-1])


def whole_source(source: str) -> str:
    """Return a source without the share of its rows that is meant."""
    return split_share(source)[0]


def count_part(part: Part) -> int:
    """Return how many raw rows (of plain text, lines) a part holds, where another part of its file follows; else 0."""
    if part.loaded and part.end is not None:
        return part.end - part.begin
    path = local_file(part.source)
    return 0 if path is None or part.end is None else files.count_between(path, part.begin, part.end)


def read_part(
    part: Part, kind: type[R], bad: Callable[[UserError], None] | None = None, source: str | None = None
) -> Iterator[tuple[int, R]]:
    """Yield the checked rows of a part as a kind, each with its number in it (raw rows counted, from 1).

    A bad row stops with a UserError, or is handed to `bad` and left out, as are those that an adapter leaves out (LeftOut,
    which stops nothing). `source`, or else the file's name, stands in
    for that field where a row has none.
    """
    name, share = split_share(part.source)
    source = source or Path(_split_adapter(name)[1]).name
    for place, row in _read(name, kind, part):
        try:
            if isinstance(row, UserError):
                raise row
            if part.text is not None:
                row = _renamed(row, part.text, place)
            if "source" in FIELDS[kind] and row.get("source") is None:
                row["source"] = source
            check_row(row, kind, place)
        except UserError as error:
            if bad is not None:
                bad(error)
            elif not isinstance(error, LeftOut):
                raise
            continue
        if share is None or share.holds(row):
            yield place.number, cast(R, row)


def write_rows(path: str | Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write rows as .jsonl (or .jsonl.gz), all of them or none; returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with atomic.replacing(path) as raw:
        # No name and no time in the gzip header: equal rows make equal files.
        zipped = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else None
        for row in rows:
            heartbeat.beat("write")
            (zipped or raw).write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
        if zipped is not None:
            zipped.close()
    return count


def count_rows(source: str | Path) -> int:
    """Return how many raw rows a source holds, without parsing them: what a progress bar goes up to."""
    name, _ = split_share(str(source))
    adapter, path = _split_adapter(name)
    if adapter is not None and not _is_file(path):
        return hub.hub_length(path)
    return files.count(_existing(path), adapter == "paragraphs")


def file_fingerprint(source: str | Path) -> str:
    """Return the sha256 of a source: of the file's bytes and, where there are such, the adapter's name and the share."""
    name, share = split_share(str(source))
    adapter, path = _split_adapter(name)
    if adapter is None or Path(path).is_file():
        digest = hashlib.sha256()
        with _existing(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        content = digest.hexdigest()
    else:
        content = hub.hub_fingerprint(path)
    if adapter is None and share is None:
        return content
    return hashlib.sha256(f"{content} {adapter} {share}".encode()).hexdigest()


def nothing(source: str, kind: type[Any], first: str) -> UserError:
    """Return the error that says that a source holds no rows of a kind; `first` is what was wrong with the first bad one."""
    name, share = split_share(source)
    if share is not None and share.count > 1:
        whole = Part(name if share.kind is None else f"{name}@{share.kind}")
        rows = sum(1 for _ in read_part(whole, kind, lambda _: None))
        if rows:
            mend = ", or larger parts (in a pipeline folds=2)" if name_of(kind) == "preference" else ""
            return UserError(
                f"{source}: of {rows:,} {name_of(kind)} rows none has a prompt of this part; "
                f"need rows of more prompts{mend}"
            )
    return UserError(f"{source}: holds no {name_of(kind)} rows, need at least one{first and f' ({first})'}")


def _split_adapter(name: str) -> tuple[str | None, str]:
    """Split `adapter:path`; a path may hold a colon where what stands before it looks like no name."""
    adapter, colon, path = name.partition(":")
    if not colon or not re.fullmatch(r"\w+", adapter) or Path(name).exists():
        return None, name
    if adapter not in adapters.ADAPTERS:
        raise UserError(f"{name}: there is no adapter {adapter!r}, need one of {', '.join(sorted(adapters.ADAPTERS))}")
    return adapter, path


def _no_such_rows(name: str, adapter: str, kind: type[Any]) -> UserError:
    kinds = ", ".join(adapters.ADAPTERS[adapter])
    return UserError(f"{name}: the adapter {adapter!r} makes no {name_of(kind)} rows, only {kinds}")


def _renamed(row: Row, field: str, where: Place) -> Row:
    if field not in row:
        raise UserError(f"{where}: there is no field {field!r}, only {', '.join(map(repr, row))}")
    return {**row, "text": row[field]}


def _read(name: str, kind: type[Any], part: Part) -> Iterator[tuple[Place, Row | UserError]]:
    """Yield each row with where it stands, for messages; a bad one is its error."""
    adapter, path = _split_adapter(name)
    begin, end = part.begin, part.end
    if adapter is None:
        yield from files.read(_existing(path), begin, end)
        return
    convert = adapters.ADAPTERS[adapter].get(name_of(kind))
    if convert is None:
        raise _no_such_rows(name, adapter, kind)
    if _is_file(path):
        raw = files.read(_existing(path), begin, end, adapter == "paragraphs")
    else:
        raw = hub.read_hub(path, begin, end, part.version, part.loaded)
    prompts: set[str] = set()
    for place, row in raw:
        if isinstance(row, UserError):
            yield place, row
            continue
        try:
            made = list(convert(row, path))
        except UserError as error:
            yield place, type(error)(f"{place}: {error}")
            continue
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            yield place, UserError(f"{place}: not a row that {adapter!r} can read ({type(error).__name__}: {error})")
            continue
        if kind is PromptRow and adapter != "hf":  # two pairs of one conversation make one prompt
            made = [prompt for prompt in made if prompt["id"] not in prompts]
            prompts.update(prompt["id"] for prompt in made)
        yield from ((place, row) for row in made)


def _is_file(path: str) -> bool:
    return Path(path).is_file() or path.endswith(files.SUFFIXES)


FILES = ".jsonl, .parquet or .txt, all but .parquet also .gz or .zst"  # that are read, in words


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; need a file ({FILES}) or `adapter:path`")
    if path.is_dir():
        raise UserError(f"{path} is a folder; need a file in it ({FILES})")
    return path
