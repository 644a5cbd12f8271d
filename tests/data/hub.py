"""A hub of data sets on this machine, as far as `datasets` asks it, and the checks of reading from it.

`python -m tests.data.hub FOLDER` runs them in a process of its own: HF_ENDPOINT is read when the libraries are imported.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlparse

CARD = """---
configs:
- config_name: en
  default: true
  data_files:
  - {split: train, path: en/*.jsonl}
  - {split: test, path: test.jsonl}
- config_name: fr
  data_files: fr.jsonl
---
"""
OLD, NEW = "1" * 40, "2" * 40  # commits


def lines(*texts: str) -> str:
    return "".join(json.dumps({"content": text}) + "\n" for text in texts)


FILES = {
    "README.md": CARD,
    "en/0.jsonl": lines("zero", "one"),
    "en/1.jsonl": lines("two"),
    "test.jsonl": lines("held out"),
    "fr.jsonl": lines("deux"),
}
COMMITS = {OLD: {**FILES, "en/1.jsonl": lines("old two")}, NEW: FILES}
REFERENCES = {"main": NEW, "v1": OLD, **{commit: commit for commit in COMMITS}}


def entries(files: dict[str, str], folder: str) -> list[dict[str, Any]]:
    """Return the files and folders that lie in a folder, as the hub tells them."""
    inside = {path: path.removeprefix(f"{folder}/" if folder else "") for path in files if path.startswith(folder)}
    found = {path: {"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in inside}
    for path, rest in inside.items():
        first, deeper, _ = rest.partition("/")
        if deeper:
            del found[path]
            parent = f"{folder}/{first}" if folder else first
            found[parent] = {"type": "directory", "path": parent, "oid": "0"}
    return list(found.values())


class Hub(BaseHTTPRequestHandler):
    """The data set `owner/name`, its two commits, their files and lists of files."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.asked.append(path)
        api, plain = "/api/datasets/owner/name/", "/datasets/owner/name/resolve/"
        verb, _, rest = path.removeprefix(api).partition("/") if path.startswith(api) else ("", "", "")
        reference, _, name = (rest or path.removeprefix(plain)).partition("/")
        if not path.startswith((api, plain)):
            return self.answer(404, error="RepoNotFound")
        if reference not in REFERENCES:
            return self.answer(404, error="RevisionNotFound")
        commit = REFERENCES[reference]
        files = COMMITS[commit]
        if verb == "revision":
            return self.answer(200, json.dumps({"id": "owner/name", "sha": commit, "siblings": []}))
        if verb == "tree":
            found = entries(files, name)
            return self.answer(200, json.dumps(found)) if found else self.answer(404, error="EntryNotFound")
        if name not in files:
            return self.answer(404, error="EntryNotFound")
        return self.answer(200, files[name], commit=commit)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer `paths-info/COMMIT`: the entries that are asked for."""
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        files = COMMITS[self.path.rpartition("/")[2]]
        found = [entry for path in asked for entry in entries(files, path.rpartition("/")[0]) if entry["path"] == path]
        self.answer(200, json.dumps(found))

    def answer(self, status: int, text: str = "", error: str = "", commit: str = "") -> None:
        self.send_response(status)
        for header, value in (
            ("X-Error-Code", error),
            ("X-Repo-Commit", commit),
            ("ETag", f'"{sha1(text.encode()).hexdigest()}"'),
        ):
            if value:
                self.send_header(header, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def serve() -> None:
    """Start the hub; the libraries imported from here on ask it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"


def check() -> None:
    """Read the data set in every way that docs/data.md and docs/corpus.md speak of."""
    import datasets
    import huggingface_hub
    import pytest

    from llamatrain.data.hub import Version, _open_stream, hub_splits
    from llamatrain.data.kinds import DocumentRow
    from llamatrain.data.rows import Part, read_part, read_rows, split, stamp
    from llamatrain.data.shapes import look
    from llamatrain.errors import UserError

    def texts(part: Part) -> list[str]:
        return [row["text"] for _, row in read_part(part, DocumentRow, source="s")]

    def streamed(name: str, version: Version) -> list[list[str]]:
        return [texts(part) for part in split(Part(f"hf:{name}", text="content", version=version), 1)]

    assert streamed("owner/name", Version()) == [["zero", "one"], ["two"]]
    assert streamed("owner/name:test", Version()) == [["held out"]]
    assert streamed("owner/name:train+test", Version("en")) == [["zero", "one"], ["two"], ["held out"]]
    assert streamed("owner/name", Version("fr")) == [["deux"]]
    assert streamed("owner/name/en", Version()) == [["zero", "one"], ["two"]]
    for revision in ("v1", OLD):
        assert streamed("owner/name", Version(revision=revision)) == [["zero", "one"], ["old two"]]
    told = {
        revision: stamp(Part("hf:owner/name", version=Version(revision=revision))) for revision in (None, "v1", OLD)
    }
    assert told == {None: [NEW], "v1": [OLD], OLD: [OLD]}
    REFERENCES["main"] = OLD  # a branch moves
    assert stamp(Part("hf:owner/name")) == [OLD]
    REFERENCES["main"] = NEW
    asked = len(Hub.asked)
    assert streamed("owner/name", Version()) == [["zero", "one"], ["two"]]
    assert all("resolve" in path for path in Hub.asked[asked:]), "the hub is asked for shards alone"
    for name, version, message in (
        ("owner/name", Version("de"), r"owner/name: .*'de' not found. Available: \['en', 'fr'\]"),
        ("owner/name", Version(revision="v9"), "owner/name: .*Revision 'v9' doesn't exist"),
        ("owner/name:dev", Version(), "owner/name:dev: .*dev"),
        ("owner/name:train[:1]", Version(), "Bad split"),
        ("owner/other", Version(), "owner/other: .*doesn't exist on the Hub"),
    ):
        with pytest.raises(UserError, match=message):
            streamed(name, version)
    whole = Part("hf:owner/name", text="content", version=Version(revision=OLD))
    assert texts(whole) == ["zero", "one", "old two"]  # not streamed: through the cache
    assert hub_splits("owner/name") == ["train", "test"]
    assert (look("owner/name").looks, look("owner/name:test").looks) == ("texts", "texts")
    with pytest.raises(UserError, match="row 1: field 'text' of the document is missing"):
        list(read_rows("hf:owner/name:test", DocumentRow))
    # Out of reach, as with HF_HUB_OFFLINE=1: what was downloaded last is read, and no other commit is taken for it.
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    _open_stream.cache_clear()
    asked = len(Hub.asked)
    assert texts(replace(whole, version=Version())) == ["zero", "one", "two"]
    assert streamed("owner/name:test", Version(revision=NEW)) == [["held out"]]
    assert stamp(Part("hf:owner/name")) == [NEW]
    with pytest.raises(UserError, match=f"revision={OLD}: the hub cannot be reached and the cache holds {NEW}"):
        texts(whole)
    assert len(Hub.asked) == asked


if __name__ == "__main__":
    os.environ |= {"HF_HOME": str(Path(sys.argv[1])), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    serve()
    check()
