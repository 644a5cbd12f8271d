"""From documents to a corpus of token shards: reads a mixture of sources, cleans it, removes duplicates, tokenizes.

Writes train/ and, where there are held-out documents, eval/ as llamatrain.data.shards describes them, and report/: what
became of every document, how fast each step was, what was dropped and why, and a data card. Finished work stands in
work/ until the end: after a kill the same command goes on where it was. finished.json then says what the corpus was made
from, and the same command finds nothing to do. The result is a function of the documents and the settings, whatever the
number of processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from llamatrain import __version__, atomic
from llamatrain.data import shards
from llamatrain.errors import UserError
from llamatrain.keys import flatten, to_dict
from llamatrain.replaced import bytes_of, move_content_beside, size
from llamatrain.run import Run
from llamatrain.text_files import read_json
from llamatrain.tokenizer import Tokenizer

from ..config import PROGRAMS
from . import report, sources
from .config import CorpusConfig
from .steps import LAST, PARTS, Corpus, whole
from .work import Work, cores, discard

FINISHED = "finished.json"


class _Work(TypedDict):
    settings: dict[str, Any]


class _Key(TypedDict):
    work: _Work
    last: dict[str, Any]


class _Finished(TypedDict):
    """What finished.json holds."""

    key: _Key
    parts: dict[str, str]


def build(cfg: CorpusConfig) -> None:
    """Build the corpus: the steps in their order. With run.resume=never nothing that was made before is used."""
    tokenizer = Tokenizer(cfg.tokenizer)
    mixture = sources.read_mixture(cfg.mixture) if cfg.mixture else sources.plain(cfg.documents, cfg.eval_documents)
    key = _key(cfg, mixture, tokenizer)
    if cfg.run.resume != "never":
        _refuse_change(Path(cfg.run.dir) / cfg.run.name / FINISHED, key)
    then = PROGRAMS["corpus"].then
    with Run(cfg.run, "corpus", cfg, free=("shard_tokens", "mixture"), dashboard=False, then=then) as run:
        finished, home = run.folder / FINISHED, run.folder / "work"
        if _is_finished(finished, key):
            run.print(f"nothing to do: {run.folder} was made from these inputs with these settings")
        else:
            if finished.is_file():
                _make_room(finished, key, run)
            manifests = _make(cfg, mixture, tokenizer, key, run)
            parts = {part: manifest.fingerprint for part, manifest in manifests.items()}
            atomic.write_json(finished, {"key": key, "parts": parts})
        if not cfg.keep_work:
            discard(home)


def _read(finished: Path) -> _Finished:
    return read_json(finished, _Finished, "delete it to rebuild the corpus")


def _refuse_change(finished: Path, key: Mapping[str, Any]) -> None:
    """Refuse to make another corpus in place of a finished one, but where its work was kept and the last steps differ."""
    if not finished.is_file():
        return
    before, now = _read(finished)["key"], json.loads(json.dumps(key))  # as JSON has it: a tuple is a list there
    only_last_differ = before["work"] == now["work"] and (finished.parent / "work").is_dir()
    if before != now and not only_last_differ:
        old, new = (flatten(made["work"]["settings"] | made["last"]) for made in (before, now))
        other = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        what = f"another {other[0]}" if other else "other inputs"
        raise UserError(
            f"{finished.parent} is finished and was made with {what}: undo the change, or start from scratch with "
            "run.resume=never or another run.name"
        )


def _make_room(finished: Path, key: Mapping[str, Any], run: Run) -> None:
    """Move a finished corpus beside; one from the same key, whose files were cut or lost, is made again in its place."""
    if _read(finished)["key"] != json.loads(json.dumps(key)):
        moved = move_content_beside(run.folder, (*PARTS, "report", FINISHED))
        run.print(f"the former corpus ({size(bytes_of(moved))}) is kept in {moved}")
    finished.unlink(missing_ok=True)


def _key(cfg: CorpusConfig, mixture: list[sources.Mixed], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what the corpus is made from: `work` is for all steps, `last` for the last ones alone."""
    settings = {name: value for name, value in to_dict(cfg).items() if name not in ("run", "num_workers", "keep_work")}
    listed = [to_dict(source) for source in mixture]
    last = {
        "shard_tokens": settings.pop("shard_tokens"),
        "card": {name: settings["card"].pop(name) for name in ("toxicity_classifier", "toxicity_sample")},
        "mixture": [{name: source.pop(name) for name in ("weight", "epochs", "licence")} for source in listed],
    }
    work = {
        "version": __version__,
        "settings": settings,
        "inputs": sources.stamps(mixture),
        "mixture": listed,
        "tokenizer": tokenizer.fingerprint,
    }
    return {"work": work, "last": last}


def _make(
    cfg: CorpusConfig, mixture: list[sources.Mixed], tokenizer: Tokenizer, key: Mapping[str, Any], run: Run
) -> dict[str, shards.Manifest]:
    """Do the steps that are not done, write the report; return the manifests of the parts."""
    with Work(run.folder / "work", key["work"], cfg.num_workers or cores(), run.progress) as work:
        if not work.claim(LAST, key["last"]):  # from here to the end the folder holds no corpus
            for part in PARTS:
                (run.folder / part / shards.MANIFEST).unlink(missing_ok=True)
        corpus = Corpus(cfg, mixture, tokenizer, work)
        corpus.make()
        corpus.bad.say(run.print)
        # A file that is still being written would stand in the corpus in part, under a key that says it is whole.
        if sources.stamps(mixture) != key["work"]["inputs"]:
            raise UserError("an input changed while it was read; the same command starts over")
        manifests = corpus.publish(run.folder)
        for part in PARTS.keys() - manifests.keys():  # of an earlier run with other documents
            shutil.rmtree(run.folder / part, ignore_errors=True)
        found = report.write(run.folder / "report", corpus, manifests)
    for part, figures in found["parts"].items():
        run.log(0, {f"corpus/{part}_{name}": value for name, value in figures.items()})
    run.print(report.summary(found))
    return manifests


def _is_finished(path: Path, key: Mapping[str, Any]) -> bool:
    """Tell whether the corpus beside `path` was made from `key` and its files are there in their sizes."""
    if not path.is_file():
        return False
    content = _read(path)
    if content["key"] != json.loads(json.dumps(key)):
        return False
    return all(
        whole(path.parent / part) and shards.read_manifest(path.parent / part).fingerprint == fingerprint
        for part, fingerprint in content["parts"].items()
    )
