"""The report: what became of every document of every source, and how fast each step was.

report.json          counts, sizes, seconds and rates; the settings stand in config.yaml beside it
report.md            the same to read
removed.jsonl        every duplicate with the document that was kept for it, and how like they are
dropped_sites.jsonl  every site that was dropped for personal data, with its counts
data_card.json, .md  what the text is like
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamatrain import atomic
from llamatrain.data.rows import write_rows
from llamatrain.data.shards import Manifest
from llamatrain.progress import duration

from . import card
from .examining import EXACT, NEAR, STATUS, WHY
from .pieces import Piece, read_json
from .shingles import found_with

if TYPE_CHECKING:
    from .steps import Corpus

CLEANED = ("unicode", "control_characters", "boilerplate", "repeated_lines")
STEPS = ("read", "count_lines", "lines", "examine", "exact", "near", "tokenize", "toxicity", "shards")


def write(folder: Path, corpus: Corpus, manifests: dict[str, Manifest]) -> dict[str, Any]:
    """Write all files of the report into `folder`; return what report.json holds."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    seconds = corpus.work.spent()
    found = {"parts": _parts(manifests, seconds), "sources": _sources(corpus, manifests), **_speed(corpus, seconds)}
    found["left_out"] = _left_out(corpus, manifests)
    settings = corpus.cfg.duplicates
    if settings.near:
        found["near_duplicates_found"] = {
            f"{similarity:.2f}": round(found_with(similarity, settings.bands, settings.rows), 4)
            for similarity in (settings.similarity, (1 + settings.similarity) / 2)
        }
    described = corpus.card()
    if described is not None:
        atomic.write_json(folder / "data_card.json", described)
        atomic.write_text(folder / "data_card.md", card.as_markdown(described))
    names = [source.name for source in corpus.mixture]
    write_rows(folder / "dropped_sites.jsonl", (site.content(names[site.source]) for site in corpus.sites))
    write_rows(folder / "removed.jsonl", removals(corpus))
    atomic.write_json(folder / "report.json", found)
    atomic.write_text(folder / "report.md", as_markdown(found))
    return found


def _parts(manifests: dict[str, Manifest], seconds: float) -> dict[str, dict[str, float]]:
    parts = {}
    for part, manifest in sorted(manifests.items(), reverse=True):
        words = sum(source.words for source in manifest.sources)
        parts[part] = {
            "tokens": manifest.tokens,
            "documents": sum(source.documents for source in manifest.sources),
            "tokens_per_word": manifest.tokens / max(words, 1),
            "megabytes_per_second": manifest.text_bytes / 1e6 / max(seconds, 1e-9),
        }
    return parts


def _sources(corpus: Corpus, manifests: dict[str, Manifest]) -> list[dict[str, Any]]:
    """Return what became of the documents, a row for each source and part: read = kept + all that was removed."""
    rows: dict[tuple[int, bool], Counter[str]] = {}
    for piece in corpus.pieces:
        counts = rows.setdefault((piece.source, piece.held_out), Counter())
        counts.update(piece.facts["counts"])
        numbers = np.bincount(_status(corpus, piece), minlength=len(STATUS)).tolist()
        counts.update({f"became_{name}": number for name, number in zip(STATUS, numbers, strict=True)})
    found = []
    for (number, held_out), counts in rows.items():
        part, name = "eval" if held_out else "train", corpus.mixture[number].name
        written = [s for s in (manifests[part].sources if part in manifests else []) if s.name == name]
        became = {name: counts[f"became_{name}"] for name in STATUS}
        # The report is also a proof: no document is lost on the way, none is written twice.
        assert sum(became.values()) == counts["read"], (name, counts)
        assert became["kept"] == sum(source.documents for source in written), (name, counts)
        found.append(
            {
                "source": name,
                "part": part,
                "licence": corpus.mixture[number].licence,
                "rows": counts["read"] + counts["bad_rows"],
                "bad_rows": counts["bad_rows"],
                **became,
                "cleaned": {step: counts[step] for step in CLEANED},
                "lines_dropped": counts["boilerplate_lines"] + counts["repeated_lines_lines"],
                "read_bytes": counts["read_bytes"],
                "kept_bytes": sum(source.text_bytes for source in written),
                "tokens": sum(source.tokens for source in written),
                "share": sum(source.share for source in written),
                "shards": sum(source.shards for source in written),
            }
        )
    return found


def _left_out(corpus: Corpus, manifests: dict[str, Manifest]) -> dict[str, int]:
    """Return the sources of which no training document is kept, and how many they had."""
    written = {source.name for source in manifests["train"].sources}
    return {
        source.name: sum(p.documents for p in corpus.pieces if p.source == number and not p.held_out)
        for number, source in enumerate(corpus.mixture)
        if source.name not in written
    }


def _warnings(found: dict[str, Any]) -> list[str]:
    return [
        f"warning: source {name} is left out: none of its {count:,} training documents was kept"
        for name, count in found["left_out"].items()
    ]


def _status(corpus: Corpus, piece: Piece) -> Any:
    return corpus.state.status[piece.first : piece.first + piece.documents]


def _speed(corpus: Corpus, seconds: float) -> dict[str, Any]:
    """Return each step's seconds over all attempts, and its rate in the bytes it goes over."""
    read = sum(piece.facts["counts"].get("read_bytes", 0) for piece in corpus.pieces)
    kept = sum(read_json(f / "counts.json")["text_bytes"] for f in corpus.tokenized)
    tokens = sum(int(np.load(f / "lengths.npy").sum()) for f in corpus.tokenized)
    work = corpus.work
    steps: dict[str, dict[str, float]] = {}
    for step in STEPS:
        spent = work.seconds(step)
        if step == "near":  # made of a step for each band, and the comparisons between them
            spent = sum(work.seconds(f"{kind}/{path.name}") for kind in ("near", "again") for path in work.steps(kind))
        if spent:
            size = kept if step in ("tokenize", "toxicity", "shards") else read
            steps[step] = {"seconds": round(spent, 3), "megabytes_per_second": round(size / 1e6 / spent, 2)}
            if step == "tokenize":
                steps[step]["tokens_per_second"] = round(tokens / spent)
    return {
        "seconds": round(seconds, 2),  # over all attempts, as are the steps' own
        "megabytes_per_second": round(read / 1e6 / max(seconds, 1e-9), 2),
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
        "processes": work.workers,
        "steps": steps,
    }


def removals(corpus: Corpus) -> Iterator[dict[str, Any]]:
    """Yield every removed duplicate with the document that was kept for it."""
    state, names = corpus.state, _Names(corpus)
    for piece in corpus.pieces:
        status = _status(corpus, piece)
        for place in np.flatnonzero((status == EXACT) | (status == NEAR)).tolist():
            number = piece.first + place
            yield {
                "document": names.of(number),
                "kept": names.of(int(state.keeper[number])),
                "why": STATUS[state.status[number]],
                "similarity": round(float(state.similarity[number]), 6),
            }


class _Names:
    """Where documents stand in the user's files, by number: file:line, or a data set and a row."""

    def __init__(self, corpus: Corpus) -> None:
        self.pieces = corpus.pieces
        self.firsts = np.array([piece.first for piece in corpus.pieces])
        self.rows = [np.load(piece.folder / "rows.npy", mmap_mode="r") for piece in corpus.pieces]
        self.places: list[tuple[str, int]] = []
        before: Counter[str] = Counter()
        for piece in corpus.pieces:
            facts = piece.facts
            self.places.append((facts["place"], before[facts["place"]]))
            before[facts["place"]] += facts["rows"]

    def of(self, number: int) -> str:
        """Return a document's name."""
        at = int(np.searchsorted(self.firsts, number, side="right")) - 1
        name, before = self.places[at]
        return f"{name}{before + int(self.rows[at][number - self.firsts[at]])}"


def summary(found: dict[str, Any]) -> str:
    """Return the report in some lines for the console."""
    lines = []
    for part, figures in found["parts"].items():
        rows = [row for row in found["sources"] if row["part"] == part]
        lost = {why: sum(row[key] for row in rows) for key, why in WHY.items() if key != "kept"}
        told = ", ".join(f"{count:,} {why}" for why, count in lost.items() if count)
        lines.append(
            f"{part}: {figures['tokens']:,} tokens in {figures['documents']:,} documents, "
            f"{figures['tokens_per_word']:.2f} tokens per word" + (f"; removed: {told}" if told else "")
        )
    lines.append(
        f"{found['megabytes_per_second']:.1f} MB/s, {found['tokens_per_second']:,} tokens/s, {duration(found['seconds'])} "
        f"on {found['processes']} processes"
    )
    return "\n".join([*lines, *_warnings(found)])


def as_markdown(found: dict[str, Any]) -> str:
    """Return the report as a page."""
    header = ["source", "part", "rows", *WHY.values(), "MB read", "MB kept", "tokens", "share", "licence"]
    lines = ["# Corpus", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in found["sources"]:
        cells = [row["source"], row["part"], f"{row['rows']:,}", *(f"{row[key]:,}" for key in WHY)]
        cells += [f"{row['read_bytes'] / 1e6:,.1f}", f"{row['kept_bytes'] / 1e6:,.1f}", f"{row['tokens']:,}"]
        lines.append("| " + " | ".join([*cells, f"{row['share']:.4f}", row["licence"] or "-"]) + " |")
    for warning in _warnings(found):
        lines += ["", warning]
    lines += ["", "rows = kept + everything removed. Documents changed by cleaning:", ""]
    lines += ["| source | part | " + " | ".join(CLEANED) + " | lines dropped |", "|" + "---|" * (len(CLEANED) + 3)]
    for row in found["sources"]:
        cells = [row["source"], row["part"], *(f"{row['cleaned'][step]:,}" for step in CLEANED)]
        lines.append("| " + " | ".join([*cells, f"{row['lines_dropped']:,}"]) + " |")
    lines += ["", "| step | seconds | MB/s | tokens/s |", "|---|---|---|---|"]
    for step, speed in found["steps"].items():
        tokens = f"{speed['tokens_per_second']:,}" if "tokens_per_second" in speed else ""
        lines.append(f"| {step} | {speed['seconds']:,.1f} | {speed['megabytes_per_second']:,.1f} | {tokens} |")
    lines += ["", f"All: {found['seconds']:,.1f} s over all attempts on {found['processes']} processes."]
    if "near_duplicates_found" in found:
        chances = ", ".join(
            f"{share:.1%} at {similarity}" for similarity, share in found["near_duplicates_found"].items()
        )
        lines += [
            "",
            f"Chance that MinHash finds a near duplicate, by similarity: {chances}. None is removed without verification.",
        ]
    return "\n".join(lines) + "\n"
