"""What is wrong with a file: bytes that are no such file, and values that are no such values."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

Broken = Iterator[tuple[str, bytes]]  # what is wrong, in a word or two, and the content

WRONG: tuple[Any, ...] = (None, "x", -1, [], 0, {}, True, 1e300, "\ud800", [None], 10**12, "", {"x": 1}, 0.5)
NO_JSON = {
    "empty": b"",
    "blank": b"\n",
    "cut": b'{"a": [1, ',
    "garbage": b"nonsense",
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "text": b'"x"',
    "nothing in it": b"{}",
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "NULs": b"\0" * 64,
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 20_000,
    "huge number": b'{"a": ' + b"9" * 5000 + b"}",
    "two values": b"{} {}",
    "binary": bytes(range(256)),
}


def objects(fine: Mapping[str, Any], wrong: int = 3) -> Broken:
    """Yield what is no JSON object, then `fine` without each of its keys and with `wrong` wrong values for each."""
    yield from NO_JSON.items()
    for number, key in enumerate(fine):
        yield f"without {key}", _dump({name: value for name, value in fine.items() if name != key})
        for shift in range(wrong):
            value = WRONG[(number * wrong + shift) % len(WRONG)]
            yield f"{key} {value!r:.20}", _dump({**fine, key: value})


def values(fine: Mapping[str, Any], wrong: int = 3) -> Iterator[tuple[str, Any]]:
    """Yield those of `objects` that are JSON, as values."""
    for name, content in objects(fine, wrong):
        try:
            yield name, json.loads(content)
        except (ValueError, RecursionError):
            continue


def lines(fine: Mapping[str, Any], wrong: int = 3) -> Broken:
    """Yield files of rows whose second is wrong, and files that are no such files."""
    first = _dump(fine) + b"\n"
    for name, content in objects(fine, wrong):
        yield name, first + content + b"\n" + first
    yield "no rows", b""
    yield "blank lines", b"\n\n\n"
    yield "not one row", b"\xff\xfe" + first


def packed(fine: Mapping[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (what is wrong, how the name ends, content) of packed files of rows."""
    whole = gzip.compress((_dump(fine) + b"\n") * 200)
    yield from (
        ("cut gzip", ".jsonl.gz", whole[:-9]),
        ("damaged gzip", ".jsonl.gz", whole[:20] + b"\xff" * 20 + whole[40:]),
        ("fake gzip", ".jsonl.gz", b"nonsense"),
        ("empty gzip", ".jsonl.gz", b""),
        ("fake Zstandard", ".jsonl.zst", b"nonsense"),
        ("cut Zstandard", ".jsonl.zst", b"\x28\xb5\x2f\xfd\x04"),
        ("fake Parquet", ".parquet", b"nonsense"),
        ("empty Parquet", ".parquet", b""),
        ("cut Parquet", ".parquet", b"PAR1" + b"\0" * 64 + b"PAR1"),
        ("text that is none", ".txt", b"\xff"),
    )


YAML = {
    "empty": b"",
    "list": b"- a=1\n",
    "number": b"7\n",
    "text": b"a\n",
    "null": b"null\n",
    "not UTF-8": b"a: \xff\n",
    "NULs": b"\0\0",
    "cut": b"sft: [epochs=1\n",
    "indentation": b"sft:\n  - epochs=1\n - optim.lr=1\n",
    "tab": b"sft:\n\t- epochs=1\n",
    "doubled key": b"sft: [epochs=1]\nsft: [epochs=2]\n",
    "doubled key below": b"sft:\n  - {a: 1, a: 2}\n",
    "python object": b"sft: !!python/object/apply:os.system [ls]\n",
    "unknown tag": b"sft: !x [1]\n",
    "unknown alias": b"sft: *x\n",
    "circle": b"sft: &a [*a]\n",
    "misspelt program": b"rewrad: [kind=safety]\n",
    "a run's config.yaml": b"run: {name: x}\nepochs: 2\n",
    "number as a key": b"1: [a=1]\n",
    "list as a key": b"[1]: [a=1]\n",
    "a mapping of overrides": b"sft: {epochs: 1}\ntoyworld: {seed: 1}\n",
    "a text of overrides": b"sft: epochs=1\ntoyworld: seed=1\n",
    "no override": b"sft: [1]\ntoyworld: [1]\n",
    "unknown key": b"sft: [nonsense=1]\ntoyworld: [nonsense=1]\npipeline: [nonsense=1]\n",
    "override that cannot be read": b"sft: ['=']\ntoyworld: ['=']\npipeline: ['=']\n",
    "stages of an earlier version": b"stages: {a: {program: sft}}\n",
    "deep": b"[" * 500,
    "impossible date": b"a: 2026-99-99\n",
}

FORMS = (
    *("=1", "+=1", "@=1", "run@x=1", "x@y@z=1", "a b=1", "run..name=1", "'", "run.name=[1", "run.name={a:1}"),
    *("nonsense=1", "+nonsense=1", "~nonsense", "~", "nonsense", "--nonsense", "a" * 5000 + "=1"),
    *("run.name='${nothing}'", "run.name='${run.name}'", "run.name='${nope:1}'", "run.name='${oc.env:LLAMATRAIN_NOT}'"),
    *("run.seed=" + "9" * 5000, "run.dir=~/runs", "seed=1,2", "run.name=choice(a,b)"),
    *("hydra.run.dir=x", "+hydra.x=1", "preset=../run/default", "preset=nothing"),
)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()
