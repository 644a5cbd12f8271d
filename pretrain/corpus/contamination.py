"""Program `corpus.contamination`: how much of evaluation sets stands in a corpus (paper A.6).

A token of a sample is contaminated if it lies in a span of more than L tokens that the corpus holds too. The two may
differ in up to `budget` places, but not in the first 10 and not at the end; a span stays within one document. A
sample's contamination is the share of its tokens that are. That makes four subsets that overlap: clean (below 20 %),
not clean, not dirty (below 80 %), dirty; for each L of `lengths`.

Where the paper builds suffix arrays of the corpus, this keeps the samples' 10-grams in memory and reads the corpus once
through them: every 10-gram of every shard by a rolling hash, then the hits token by token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain import config
from llamatrain.config import to_dict
from llamatrain.data import files, shards
from llamatrain.errors import UserError
from llamatrain.run import Run, RunConfig
from llamatrain.tokenizer import Tokenizer

from .matching import GRAM, STRETCH, Index, match_stretch
from .work import Work, cores, discard

CLEAN, DIRTY = 0.2, 0.8
SUBSETS = ("clean", "not clean", "not dirty", "dirty")


@dataclass
class EvaluationSet:
    """A set of samples: its files, and how a row becomes the text that a model would be shown."""

    path: str
    template: str | None = None


@dataclass
class ContaminationConfig:
    """Settings of the program; configs/corpus_contamination.yaml explains the keys."""

    run: RunConfig
    corpus: str
    tokenizer: str
    sets: dict[str, EvaluationSet]
    lengths: list[int]
    budget: int
    num_workers: int | None

    def __post_init__(self) -> None:
        """Check values."""
        if not self.sets:
            raise UserError("sets={}: needs evaluation sets by name, like {piqa:{path:piqa.jsonl}}")
        if not self.lengths or min(self.lengths) < GRAM:
            raise UserError(f"lengths={self.lengths}: needs lengths of {GRAM} or more")
        if self.budget < 0:
            raise UserError(f"budget={self.budget}: needs 0 or more")
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(f"num_workers={self.num_workers}: needs 1 or more, or null for all cores")


def report(cfg: ContaminationConfig) -> None:
    """Read the corpus once and write contamination.json, contamination.md and samples.jsonl."""
    tokenizer = Tokenizer(cfg.tokenizer)
    part = Path(cfg.corpus) / "train"
    manifest = shards.read_manifest(part, tokenizer)
    texts = {name: list(read_samples(chosen)) for name, chosen in cfg.sets.items()}
    samples = [ids for listed in texts.values() for ids in tokenizer.encode_many(listed)]
    key = {"settings": {**to_dict(cfg), "run": None, "num_workers": None}, "corpus": manifest.fingerprint}
    key["sets"] = {name: files_stamp(chosen.path) for name, chosen in cfg.sets.items()}
    with Run(cfg.run, program="corpus.contamination", settings=cfg) as run:
        with Work(run.folder / "work", key, cfg.num_workers or cores(), run.progress) as work:
            index = Index.of(samples)
            index.save(work.folder / "index.npz")
            tasks = [
                (work.folder / "index.npz", part, source, start, manifest.dtype, manifest.bos_id, cfg.budget)
                for source in manifest.sources
                for start in range(0, source.tokens, STRETCH)
            ]
            reach = np.zeros(len(index.tokens), dtype=np.int32)
            for folder in work.run("match", match_stretch, tasks):
                np.maximum(reach, np.load(folder / "reach.npy"), out=reach)
        found = summarise(cfg, list(texts), [len(listed) for listed in texts.values()], index, reach)
        (run.folder / "contamination.json").write_text(json.dumps(found["sets"], indent=1) + "\n")
        (run.folder / "contamination.md").write_text(as_markdown(found["sets"], cfg))
        with (run.folder / "samples.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in found["samples"])
        for name, by_length in found["sets"].items():
            shortest = by_length[str(min(cfg.lengths))]
            run.log(0, {f"contamination/{name}": shortest["mean"], f"contamination/{name}_dirty": shortest["dirty"]})
        run.print(as_markdown(found["sets"], cfg))
        discard(run.folder / "work")


def files_stamp(path: str) -> list[int]:
    """Return a file's size and time."""
    status = Path(path).stat()
    return [status.st_size, status.st_mtime_ns]


def read_samples(chosen: EvaluationSet) -> Iterator[str]:
    """Yield the text of every row: by its template, `{field}` standing for that field, or as a row of our own kinds."""
    path = Path(chosen.path)
    if not path.is_file():
        raise UserError(f"sets: {path} does not exist; needs a file of rows")
    for place, row in files.read(path):
        if isinstance(row, UserError):
            raise row
        yield verbalised(row, chosen.template, str(place))


def verbalised(row: dict[str, Any], template: str | None, where: str) -> str:
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
    raise UserError(f"{where}: has neither text nor messages; needs a template of its fields ({', '.join(row)})")


def _told(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def summarise(
    cfg: ContaminationConfig, names: Sequence[str], counts: Sequence[int], index: Index, reach: NDArray[np.int32]
) -> dict[str, Any]:
    """Return for each set and length the four subsets' sizes and mean contamination, and every sample's own."""
    shares = {length: index.contaminated(reach, length) for length in sorted(cfg.lengths)}
    sets: dict[str, dict[str, Any]] = {}
    rows = []
    first = 0
    for name, count in zip(names, counts, strict=True):
        own = slice(first, first + count)
        sets[name] = {str(length): _subsets(share[own]) for length, share in shares.items()}
        rows += [
            {
                "set": name,
                "sample": number,
                **{str(length): round(float(share[own][number]), 4) for length, share in shares.items()},
            }
            for number in range(count)
        ]
        first += count
    return {"sets": sets, "samples": rows}


def _subsets(shares: NDArray[np.float64]) -> dict[str, float]:
    dirty, clean = shares >= DIRTY, shares < CLEAN
    counts = zip(SUBSETS, (clean, ~clean, ~dirty, dirty), strict=True)
    return {
        "samples": len(shares),
        "mean": float(shares.mean()),
        **{name: int(chosen.sum()) for name, chosen in counts},
    }


def as_markdown(sets: dict[str, dict[str, Any]], cfg: ContaminationConfig) -> str:
    """Return the report as a page."""
    lines = [
        f"# Contamination by {cfg.corpus}",
        "",
        f"Share of a sample's tokens in spans of more than L tokens that the corpus holds, up to {cfg.budget} differences.",
        "",
        "| set | L | samples | mean | " + " | ".join(SUBSETS) + " |",
        "|" + "---|" * 8,
    ]
    for name, by_length in sets.items():
        for length, found in by_length.items():
            counts = " | ".join(f"{found[subset]:,}" for subset in SUBSETS)
            lines.append(f"| {name} | {length} | {found['samples']:,} | {found['mean']:.2%} | {counts} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    config.main("corpus_contamination", ContaminationConfig, report)
