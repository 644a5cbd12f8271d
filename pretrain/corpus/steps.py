"""The steps of a corpus in their order, each from what the ones before it left."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain import atomic
from llamatrain.data import rows, shards
from llamatrain.data.kinds import DocumentRow
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.tokenizer import Tokenizer

from . import card, lines, toxicity
from .card import Sampled
from .config import CorpusConfig
from .duplicates import State, remove
from .examining import KEPT, SITE, STATUS, WHY, Examination, examine
from .pieces import Piece, numbered, read_json
from .reading import read_unit
from .sites import Site, judge
from .sources import Mixed, Unit, shares, units
from .tokens import Span, plan_shards, tokenize, write_shard
from .work import Work, discard

PARTS = {"eval": True, "train": False}  # name -> is it held out
LAST = ("toxicity", "shards", "out")  # steps that depend on settings that the others do not, below work/


class Corpus:
    """A corpus being built: what each step leaves for the next."""

    pieces: list[Piece]
    units: list[Unit]
    state: State
    bad: BadRows
    sites: list[Site]
    examined: list[Path]
    tokenized: list[Path]
    scored: list[Path]

    def __init__(self, cfg: CorpusConfig, mixture: list[Mixed], tokenizer: Tokenizer, work: Work) -> None:
        self.cfg, self.mixture, self.tokenizer, self.work = cfg, mixture, tokenizer, work
        self.bytes = round(cfg.chunk_mb * 1e6)
        self.dtype = shards.token_dtype(tokenizer.vocab_size).name

    def make(self) -> None:
        """Do all steps but the last, which puts the shards in their place."""
        self._read()
        if self.cfg.cleaning.repeated_lines:
            self._drop_lines()
        self._examine()
        status = self._drop_sites()
        self.state = remove(self.work, self.pieces, status, self.cfg.duplicates)
        self._tokenize()
        self._score()

    def _read(self) -> None:
        cfg = self.cfg
        self.units = units(self.mixture, self.bytes)
        tasks = [(unit, cfg.cleaning, cfg.bad_rows, self.bytes) for unit in self.units]
        folders = self.work.run("read", read_unit, tasks)
        self.pieces = numbered(folders, [(unit.source, unit.held_out) for unit in self.units])
        self.bad = self._bad_rows(folders)

    def _bad_rows(self, folders: list[Path]) -> BadRows:
        """Return the rows that cannot be used; UserError where a file holds no others."""
        by_file: dict[str, BadRows] = {}
        for unit, folder in zip(self.units, folders, strict=True):
            bad = by_file.setdefault(unit.part.source, BadRows("skip"))
            for facts in (read_json(path) for path in sorted(folder.glob("*/piece.json"))):
                bad.good += facts["documents"]
                if "bad" in facts:
                    bad.join(BadRows.of(facts["bad"]))
        joined = BadRows("skip")
        for source, bad in by_file.items():
            if bad.first and not bad.good:
                raise rows.nothing(source, DocumentRow, next(iter(bad.first.values())))
            joined.join(bad)
        return joined

    def _drop_lines(self) -> None:
        """Find the lines that each source repeats in its training documents, and drop them from all of its pieces."""
        cleaning = self.cfg.cleaning
        counted = self.work.run("count_lines", lines.count_lines, [(piece,) for piece in self.pieces])
        tasks, places = [], []
        for number in range(len(self.mixture)):
            own = [i for i, piece in enumerate(self.pieces) if piece.source == number]
            train = [i for i in own if not self.pieces[i].held_out]  # held-out text must not decide what is trained on
            hashes = lines.repeated(
                [counted[i] for i in train],
                [self.pieces[i].documents for i in train],
                cleaning.repeated_lines,
                cleaning.repeated_lines_documents,
            )
            if len(hashes):
                tasks += [(self.pieces[i], hashes) for i in own]
                places += own
        for i, folder in zip(places, self.work.run("lines", lines.drop_lines, tasks), strict=True):
            old = self.pieces[i]
            self.pieces[i] = Piece(folder / "000000", old.source, old.held_out, old.first, old.documents)

    def _examine(self) -> None:
        cfg = self.cfg
        asked = Examination(cfg.cleaning.min_characters, cfg.languages, cfg.duplicates, cfg.personal.drop_sites)
        self.examined = self.work.run("examine", examine, [(piece, asked) for piece in self.pieces])

    def _drop_sites(self) -> NDArray[np.uint8]:
        """Return every document's status after dropping the sites that hold too much personal data."""
        status = [np.load(folder / "status.npy") for folder in self.examined]
        self.sites = judge(self.pieces, self.examined, self.cfg.personal) if self.cfg.personal.drop_sites else []
        dropped = {(site.source, site.host) for site in self.sites}
        for piece, own in zip(self.pieces, status, strict=True):
            if dropped and piece.has("hosts"):
                names = piece.facts["hosts"]
                # The last entry is for documents without a host, whose number is -1.
                is_dropped = np.array([(piece.source, name) in dropped for name in names] + [False])
                own[is_dropped[piece.array("hosts")] & (own == KEPT)] = SITE
        return np.concatenate([np.zeros(0, np.uint8), *status])  # of no piece, too: `concatenate` needs one array

    def _tokenize(self) -> None:
        np.save(self._kept, self.state.status)
        if self.cfg.languages.identify:
            np.save(self._english, np.concatenate([self._is_in(folder, "en") for folder in self.examined]))
        which = self._sampled(self.cfg.card.sample)
        tasks = [(piece, self._kept, str(self.tokenizer.path), which) for piece in self.pieces]
        self.tokenized = self.work.run("tokenize", tokenize, tasks)

    def _score(self) -> None:
        """Score a sample of the kept training documents, where the card has a classifier."""
        asked = self.cfg.card
        if not asked.sample or asked.toxicity_classifier is None:
            return
        which = self._sampled(asked.toxicity_sample)
        tasks = [(p, self._kept, asked.toxicity_classifier, which) for p in self.pieces if not p.held_out]
        self.scored = self.work.run("toxicity", toxicity.score, tasks)

    @property
    def _kept(self) -> Path:
        return self.work.folder / "status.npy"

    @property
    def _english(self) -> Path:
        return self.work.folder / "english.npy"

    def _sampled(self, share: float) -> Sampled:
        """Return a sample of the documents, of the English ones where languages are detected."""
        return Sampled(share, self._english if self.cfg.languages.identify else None)

    @staticmethod
    def _is_in(folder: Path, language: str) -> NDArray[np.bool_]:
        names = read_json(folder / "examined.json")["languages"]
        number = names.index(language) if language in names else -1
        found: NDArray[np.bool_] = np.load(folder / "languages.npy") == number
        return found

    # --- the last step ---

    def publish(self, folder: Path) -> dict[str, shards.Manifest]:
        """Write the shards and manifests of both parts and put them in their place; return the manifests."""
        plans: list[tuple[str, int, list[list[Span]]]] = []  # part, number of the source, the spans of its shards
        for part, held_out in PARTS.items():
            for number in range(len(self.mixture)):
                own = self._own(number, held_out)
                plan = list(plan_shards([self.tokenized[i] for i in own], self.cfg.shard_tokens))
                if plan:  # else the source is left out, and the report says so
                    plans.append((part, number, plan))
        if not any(part == "train" for part, _, _ in plans):
            raise self._nothing_left()
        out = self.work.folder / "out"
        # A part is either still in work/ or already in its place; neither means that it was damaged there since.
        if any(not (out / part).is_dir() and not whole(folder / part) for part, _, _ in plans):
            discard(self.work.folder / "shards")
            discard(out)
        tasks = [
            (out / part / self.mixture[number].name, index, spans, self.dtype)
            for part, number, plan in plans
            for index, spans in enumerate(plan)
        ]
        # One list of tasks for all sources and parts, so that every process has work; dealt back in the same order.
        entries = iter([read_json(f / "entry.json") for f in self.work.run("shards", write_shard, tasks)])
        listed: dict[str, dict[int, list[dict[str, Any]]]] = {part: {} for part in PARTS}
        for part, number, plan in plans:
            listed[part][number] = [next(entries) for _ in plan]
        return {part: self._place(part, some, out / part, folder / part) for part, some in listed.items() if some}

    def _nothing_left(self) -> UserError:
        """Say of the training documents, none of which is kept, what became of them."""
        train = [piece for piece in self.pieces if not piece.held_out]
        numbers = np.concatenate([np.zeros(0, int), *(np.arange(p.first, p.first + p.documents) for p in train)])
        became = Counter(STATUS[status] for status in self.state.status[numbers])
        became["bad_rows"] = sum(piece.facts["counts"].get("bad_rows", 0) for piece in train)
        reasons = [f"{WHY[name]}: {count:,}" for name, count in became.items() if count]
        if copies := int((self.state.keeper[numbers] >= 0).sum()):  # where all are removed, what is kept is held out
            reasons.append(f"{copies:,} of them like held-out documents")
        paths = ", ".join(path for source in self.mixture for path in source.paths)
        told = f" ({', '.join(reasons)})" if reasons else ""
        return UserError(f"{paths}: none of the {len(numbers):,} training documents is left{told}; need at least one")

    def _place(self, part: str, entries: dict[int, list[dict[str, Any]]], made: Path, target: Path) -> shards.Manifest:
        """Write a part's manifest and put it where it belongs, unless that was done before a kill."""
        if made.is_dir():
            listed = [self._source(made, PARTS[part], number, some) for number, some in entries.items()]
            # Held-out documents are gone through once, whatever the mixture says of training.
            often = [self.mixture[n] if part == "train" else Mixed("", [], epochs=1.0) for n in entries]
            for source, share in zip(listed, shares(often, [s.tokens for s in listed]), strict=True):
                source.share = share
            shards.write_manifest(made, shards.Manifest.of(self.tokenizer, listed))
            shutil.rmtree(target, ignore_errors=True)
            atomic.publish(made, target)
        return shards.read_manifest(target)

    def _source(self, folder: Path, held_out: bool, number: int, entries: list[dict[str, Any]]) -> shards.Source:
        own = self._own(number, held_out)
        source = self.mixture[number]
        return shards.Source(
            name=source.name,
            share=0.0,
            licence=source.licence,
            tokens=sum(entry["tokens"] for entry in entries),
            documents=sum(entry["documents"] for entry in entries),
            words=sum(self._words(i) for i in own),
            text_bytes=sum(read_json(self.tokenized[i] / "counts.json")["text_bytes"] for i in own),
            shards=len(entries),
            index=shards.write_index(folder / source.name, entries),
        )

    def _own(self, number: int, held_out: bool) -> list[int]:
        return [i for i, p in enumerate(self.pieces) if (p.source, p.held_out) == (number, held_out)]

    def _words(self, number: int) -> int:
        piece = self.pieces[number]
        kept = self.state.status[piece.first : piece.first + piece.documents] == KEPT
        return int(np.load(self.examined[number] / "words.npy")[kept].sum(dtype=np.int64))

    # --- the card ---

    def card(self) -> dict[str, Any] | None:
        """Return the data card of the kept training documents, or None where it is not asked for."""
        cfg = self.cfg
        if not cfg.card.sample:
            return None
        counted = [
            read_json(folder / "counts.json")["card"]
            for piece, folder in zip(self.pieces, self.tokenized, strict=True)
            if not piece.held_out
        ]
        languages = self._languages() if cfg.languages.identify else None
        found = card.describe(counted, languages, english=languages is not None)
        if cfg.card.toxicity_classifier is not None:
            scores = [np.load(folder / "scores.npy") for folder in self.scored]
            found["toxicity"] = card.toxicity(cfg.card.toxicity_classifier, np.concatenate(scores))
        return found

    def _languages(self) -> Counter[str]:
        """Return how many kept training documents are in each language."""
        found: Counter[str] = Counter()
        for piece, folder in zip(self.pieces, self.examined, strict=True):
            kept = self.state.status[piece.first : piece.first + piece.documents] == KEPT
            names = read_json(folder / "examined.json")["languages"]
            numbers = np.bincount(np.load(folder / "languages.npy")[kept], minlength=len(names))
            if not piece.held_out:
                found.update(dict(zip(names, numbers.tolist(), strict=True)))
        return +found


def whole(part: Path) -> bool:
    """Tell whether a part of a corpus is in its place, all files in their sizes."""
    try:
        return not any(fault for _, fault in shards.verify(part, contents=False))
    except UserError:  # a manifest or an index that is missing or was altered
        return False
