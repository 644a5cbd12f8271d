"""Program `corpus.contamination`: how much of an evaluation set a corpus contains, and whether it helped (paper A.6).

A token of a sample is contaminated if it is in a span of more than L tokens that also occurs in the corpus. The two may
differ in up to `budget` positions, but not in the first 10 and not at the end; a span stays within one document. A
sample's contamination is the share of its tokens that are. For each L of `lengths`, and if the samples' scores are
given, `verdict` does the rest.

Where the paper builds suffix arrays of the corpus, this keeps the samples' 10-grams in memory and reads the corpus once
through them: every 10-gram of every shard by a rolling hash, then the hits token by token.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain import atomic
from llamatrain.config.program import main
from llamatrain.data import files, shards
from llamatrain.data.files import Place
from llamatrain.data.rows import write_rows
from llamatrain.errors import UserError, show
from llamatrain.run import Run
from llamatrain.tokenizer import Tokenizer

from .config import ContaminationConfig, EvaluationSet
from .matching import STRETCH, Index, Reach, match_stretch
from .verdict import as_markdown, describe, judge
from .work import Work, cores, discard

SPANS = "spans.npz"


@dataclass(frozen=True)
class Samples:
    """A set as it was read: each sample's text and its own id (None where its row has none), and the scores if given."""

    texts: list[str]
    ids: list[str | int | None]
    scores: NDArray[np.float64] | None


def report(cfg: ContaminationConfig) -> None:
    """Read the corpus once and write contamination.json, contamination.md and samples.jsonl."""
    tokenizer = Tokenizer(cfg.tokenizer)
    manifest = shards.read_manifest(Path(cfg.corpus) / "train", tokenizer)
    sets = {name: read_set(chosen) for name, chosen in cfg.sets.items()}
    index = Index.of([ids for own in sets.values() for ids in tokenizer.encode_many(own.texts)])
    with Run(cfg.run, program="corpus.contamination", settings=cfg, free=("sets", "lengths"), dashboard=False) as run:
        reach = find_spans(cfg, run, manifest, index)
        found, samples = summarise(cfg.lengths, sets, index, reach)
        page = as_markdown(found, cfg.corpus, cfg.budget)
        atomic.write_json(run.folder / "contamination.json", found)
        atomic.write_text(run.folder / "contamination.md", page)
        write_rows(run.folder / "samples.jsonl", samples)
        for name, own in found.items():
            shortest = own["lengths"][min(cfg.lengths)]  # the strictest: what any longer span covers, it covers
            metrics = {
                f"contamination/{name}": shortest["mean"],
                f"contamination/{name}_dirty": shortest["subsets"]["dirty"]["n"],
            }
            if "affected" in own:  # known where the set came with scores
                metrics[f"contamination/{name}_affected"] = own["affected"]
            run.log(0, metrics)
        run.print(page)


def find_spans(cfg: ContaminationConfig, run: Run, manifest: shards.Manifest, index: Index) -> Reach:
    """Return how far the spans reach, from an earlier run on the same corpus and samples where there was one.

    Scores may thus be given later: the corpus is not read again.
    """
    chosen = [[name, own.path, own.template, files_stamp(own.path)] for name, own in cfg.sets.items()]
    key = {"corpus": manifest.fingerprint, "budget": cfg.budget, "sets": chosen}
    kept, home = run.folder / SPANS, run.folder / "work"
    if kept.is_file():
        with np.load(kept) as before:
            if str(before["key"]) == json.dumps(key):
                run.print(f"the corpus was read before: {kept}")
                return np.asarray(before["reach"])
    with Work(home, key, cfg.num_workers or cores(), run.progress) as work:
        index.save(work.folder / "index.npz")
        part = Path(cfg.corpus) / "train"
        tasks = [
            (work.folder / "index.npz", part, source, start, manifest.dtype, manifest.bos_id, cfg.budget)
            for source in manifest.sources
            for start in range(0, source.tokens, STRETCH)
        ]
        reach: Reach = np.zeros(len(index.tokens), dtype=np.int32)
        for folder in work.run("match", match_stretch, tasks):  # the longest span of any stretch counts
            with np.load(folder / "reach.npz") as found:
                places = found["places"]
                reach[places] = np.maximum(reach[places], found["reach"])
    with atomic.replacing(kept) as file:
        np.savez(file, key=np.array(json.dumps(key)), reach=reach)
    discard(home)
    return reach


def files_stamp(path: str) -> list[int]:
    """Return a file's size and time."""
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns]


def read_set(chosen: EvaluationSet) -> Samples:
    """Read a set's rows, by its template, `{field}` standing for that field, or as rows of our own kinds; and its scores."""
    texts: list[str] = []
    ids: list[str | int | None] = []
    for place, row in _rows(chosen.path, "sets", "a file of rows"):
        texts.append(verbalised(row, chosen.template, place))
        ids.append(_id(row))
    if not texts:
        raise UserError(f"sets: {chosen.path} has no rows, need at least one")
    scores = read_scores(chosen.scores, ids) if chosen.scores is not None else None
    return Samples(texts, ids, scores)


def read_scores(path: str, ids: Sequence[str | int | None]) -> NDArray[np.float64]:
    """Return the score of each sample from rows with `score` and either `sample`, its number from 0, or its own `id`."""
    numbers: defaultdict[Any, list[int]] = defaultdict(list)
    for number, own in enumerate(ids):
        numbers[own].append(number)
    scores = np.full(len(ids), np.nan)
    for place, row in _rows(path, "scores", "rows of score and sample (or id)"):
        score, at = row.get("score"), row.get("sample")
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise UserError(f"{place}: field 'score': found {show(score)}, need a number")
        if "sample" not in row and (own := _id(row)) is not None:
            if len(numbers[own]) != 1:  # the score of a repeated id could be either's
                raise UserError(
                    f"{place}: field 'id': {len(numbers[own])} samples have {show(own)}, need an id that only one has"
                )
            [at] = numbers[own]
        if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < len(ids):
            raise UserError(f"{place}: field 'sample': found {show(at)}, need a number from 0 to {len(ids) - 1}")
        if not np.isnan(scores[at]):
            raise UserError(f"{place}: sample {at} has a score already, need one score per sample")
        scores[at] = score
    without = np.flatnonzero(np.isnan(scores))
    if len(without):
        raise UserError(f"{path}: {len(without):,} of {len(ids):,} samples have no score, first: {without[0]}")
    return scores


def _id(row: Mapping[str, Any]) -> str | int | None:
    own = row.get("id")
    return own if isinstance(own, str | int) else None


def _rows(path: str, key: str, need: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the rows of a file, each with its place for messages (one object, which moves on)."""
    if not Path(path).is_file():
        raise UserError(f"{key}: {path} does not exist; need {need}")
    for place, row in files.read(Path(path)):
        if isinstance(row, UserError):
            raise row
        yield place, row


def verbalised(row: dict[str, Any], template: str | None, where: Place | str) -> str:
    """Return the text of a row."""
    if template is not None:
        try:
            return template.format_map({name: _told(value) for name, value in row.items()})
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"{where}: template {template!r}: the row has no field {error}; it has {', '.join(row)}"
            ) from None
    if isinstance(row.get("text"), str):
        return str(row["text"])
    if isinstance(row.get("messages"), list):
        answers = [row[name] for name in ("response", "chosen") if isinstance(row.get(name), str)]
        return "\n".join([str(message.get("content", "")) for message in row["messages"]] + answers)
    raise UserError(f"{where}: has neither text nor messages; need a template with its fields ({', '.join(row)})")


def _told(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def summarise(
    lengths: Sequence[int], sets: Mapping[str, Samples], index: Index, reach: Reach
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what `verdict` says of each set, and every sample's own contamination at each length."""
    shares = {length: index.contaminated(reach, length) for length in sorted(lengths)}
    found: dict[str, Any] = {}
    rows = []
    first = 0
    for name, samples in sets.items():
        count = len(samples.texts)
        own = {length: share[first : first + count] for length, share in shares.items()}
        by_length = {length: describe(share, samples.scores) for length, share in own.items()}
        found[name] = {"samples": count, "lengths": by_length}
        if samples.scores is not None:
            found[name] |= {"score": float(samples.scores.mean()), **judge(by_length)}
        for number in range(count):
            told = {str(length): round(float(share[number]), 4) for length, share in own.items()}
            rows.append({"set": name, "sample": number, **told})
        first += count
    return found, rows


if __name__ == "__main__":
    main("corpus_contamination", ContaminationConfig, report)
