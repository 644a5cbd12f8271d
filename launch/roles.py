"""Which files play which role in a pipeline: by what they hold, by their names where those say held out, by who is missing.

Where no file is named as held out, a share of the rows is, by a hash of their conversations. Where a role has no file of
its own, others stand in: what a pair was asked is a prompt, its better answer a dialogue, a dialogue a text.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamatrain.data import adapters, hub
from llamatrain.data.files import SUFFIXES, is_text
from llamatrain.data.shapes import Shape, look
from llamatrain.errors import UserError, mistake

from .graphs.chat import KINDS, Data, Pairs

PASSED_OVER = {"runs", "presets", "node_modules", "__pycache__"}  # folders: our own results among them
HELD_OUT = {"eval", "evaluation", "val", "valid", "validation", "dev", "test", "heldout"}  # words of a file's name
MANY_TEXTS = 20  # .txt files from which on each is a document; of fewer, what stands between blank lines
MOST_TEXTS = 1000  # .txt files that a data file lists
FOLDS = {"document": 20, "dialogue": 10, "prompt": 10, "preference": 10}  # of which one is held out
STANDS_IN: dict[str, tuple[str, ...]] = {  # for a role without a file
    "document": ("dialogue", "preference"),
    "dialogue": ("preference",),
    "prompt": ("preference", "dialogue"),
}
PLURAL: dict[str, str] = {
    "document": "documents",
    "dialogue": "dialogues",
    "prompt": "prompts",
    "preference": "preferences",
    "comparison": "comparisons",
    "response": "responses",
    "judgement": "judgements",
}


@dataclass
class File:
    """A file, a data set of the hub, or many .txt files (`texts`) as one; what it holds, and what became of it."""

    label: str  # as people know it
    shape: Shape
    texts: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    @property
    def is_held_out(self) -> bool:
        """Whether its name, or the name of a folder it lies in, says so."""
        words = re.split(r"[^a-z]+", re.sub(r"held[_-]?out", "heldout", self.label.lower()))
        return not self.texts and bool(HELD_OUT.intersection(words))


@dataclass
class Part:
    """The sources of a role: those that are learned from, and those held out; with their files and rows."""

    train: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    files: list[File] = field(default_factory=list)  # that are learned from
    rows: int = 0
    rows_held_out: int = 0


@dataclass
class Roles:
    """Which source plays which role, and how much that is."""

    data: Data
    folds: int  # of the reward models
    parts: dict[str, Part]  # by kind of row; of preferences by theirs


# --- finding -----------------------------------------------------------------------------------------------------


def found(sources: Sequence[str]) -> tuple[list[File], Counter[str]]:
    """Return what lies in folders, files and data sets of the hub, and how many files of which other types were not read."""
    paths: list[tuple[str, str]] = []  # (label, source)
    others: Counter[str] = Counter()
    for source in sources:
        path = Path(source).expanduser().resolve()
        if path.is_dir():
            for file in _walk(path):
                if file.name.endswith(SUFFIXES):
                    paths.append((str(file.relative_to(path)), str(file)))
                else:
                    others[file.suffix or file.name] += 1
        elif path.exists():
            paths.append((path.name, str(path)))
        else:
            paths += _elsewhere(source)
    if not paths:
        but = f", only {_counted(others)}" if others else ""
        raise UserError(f"from={', '.join(sources)}: holds no .jsonl, .json, .parquet or .txt file{but}")
    texts = [one for one in paths if is_text(Path(one[1]))]
    rest = [one for one in paths if one not in texts]
    files = [File(label, _looked(source)) for label, source in rest]
    if len(texts) > MOST_TEXTS:
        raise UserError(
            f"from={', '.join(sources)}: holds {len(texts):,} .txt files, more than the {MOST_TEXTS:,} that a data file lists; "
            'make them one .jsonl file, a row each: {"text": "..."}'
        )
    return [*_text_files(texts), *files], others


def _looked(source: str) -> Shape:
    """Return what a source holds; what cannot be read holds nothing, and says why."""
    try:
        return look(source)
    except (UserError, OSError) as error:
        return Shape(source, why=mistake(error) or repr(error))


def _walk(folder: Path) -> Iterator[Path]:
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name not in PASSED_OVER and name[0] != ".")
        yield from (Path(place) / name for name in sorted(files) if name[0] != ".")


def _elsewhere(source: str) -> Iterator[tuple[str, str]]:
    """Yield what a source names that is no path: an adapter and a path, or the splits of a data set of the hub."""
    adapter, colon, name = source.partition(":")
    path = Path(name).expanduser().resolve()
    if colon and adapter in adapters.ADAPTERS and path.is_file():
        yield path.name, f"{adapter}:{path}"
        return
    name = name if colon and adapter in adapters.ADAPTERS else source
    if not re.fullmatch(r"[\w.-]+/[\w./-]+(:.+)?", name) or name.endswith(SUFFIXES) or name.startswith("."):
        raise UserError(f"from={source}: there is no such file or folder, nor a data set on the hub (owner/name)")
    if ":" in name:
        yield source, source
        return
    splits = hub.hub_splits(name)
    held_out = next((split for split in splits if split in HELD_OUT), None)
    train = "train" if "train" in splits else splits[0]
    for split in (train, held_out):
        if split is not None:
            yield f"{source}:{split}", f"{source}:{split}"


def _text_files(texts: Sequence[tuple[str, str]]) -> list[File]:
    """Return .txt files: few ones by themselves, divided at blank lines; many as one."""
    if len(texts) < MANY_TEXTS:
        return [File(label, _looked(f"paragraphs:{path}")) for label, path in texts]
    whole, good = Shape("", None, "document"), list[str]()
    for _, path in texts:
        one = _looked(path)
        if one.kind is not None:
            good.append(path)
        whole.rows, whole.sizes = whole.rows + one.rows, whole.sizes + one.sizes
        whole.characters.update(one.characters)
        whole.words |= one.words
        for error in one.bad.first.values():
            whole.bad(UserError(error))
    whole.bad.good = whole.rows
    whole.kind = "document" if good else None
    top = os.path.commonpath([Path(label).parent for label, _ in texts])
    return [File(f"{Path(top) / '*.txt'}", whole, texts=good)]


def _counted(others: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in others.most_common(5))


# --- assigning ---------------------------------------------------------------------------------------------------


def assigned(files: Sequence[File], folds: int = 1, checkpoint: str | None = None) -> Roles:
    """Give every role its sources, and note with each file which roles it plays, and why; `folds` of the reward models.

    A model to start from, `checkpoint`, has read texts enough: nothing stands in for them.
    """
    for file in files:
        file.roles, file.why = [], []
    root, parts = _root(files), dict[str, Part]()
    for kind in KINDS:
        rated = [file for file in files if file.shape.kind == "preference" and kind in file.shape.folds]
        parts[kind] = _divided(rated, "preference", root, folds, kind)
    for role in ("dialogue", "prompt", "document"):
        own_alone = role == "document" and checkpoint is not None
        players = _players(files, (role,) if own_alone else (role, *STANDS_IN[role]), role)
        # Who stands in is divided as its own role is: what is held out there is learned from nowhere.
        own = players[0].shape.kind or role if players else role
        fold = folds if own == "preference" and folds > 1 else FOLDS[own]
        parts[role] = _divided(players, role, root, fold)
    text, dialogues, prompts = parts["document"], parts["dialogue"], parts["prompt"]
    data = Data(
        root=str(root) if root is not None else None,
        world=False,
        checkpoint=checkpoint,
        documents=text.train,
        documents_eval=text.held_out,
        dialogues=dialogues.train,
        dialogues_eval=dialogues.held_out,
        long_dialogues=[],
        long_dialogues_eval=[],
        prompts=prompts.train,
        prompts_eval=prompts.held_out,
        prompts_borderline=[],
        preferences=Pairs(**{kind: parts[kind].train for kind in KINDS}),
        preferences_eval=Pairs(**{kind: parts[kind].held_out for kind in KINDS}),
        ratings=None,
    )
    return Roles(data, folds, parts)


def divisible(files: Sequence[File], folds: int) -> bool:
    """Tell whether reward models can be cross-validated: every fold of every file has pairs of each kind that it holds."""
    rated = [file for file in files if file.shape.kind == "preference"]
    named = any(file.is_held_out for file in rated)
    whole = all(file.shape.divides(folds, kind) for file in rated for kind in file.shape.folds)
    return bool(rated) and not named and whole


def _players(files: Sequence[File], kinds: Sequence[str], role: str) -> list[File]:
    """Return the files that play a role: those of the first of these kinds of which there are some."""
    for kind in kinds:
        players = [file for file in files if file.shape.kind == kind and _adapter(file.shape, role) is not None]
        if players:
            return players
    return []


def _divided(files: Sequence[File], role: str, root: Path | None, fold: int, kind: str = "") -> Part:
    """Divide files into what is learned from and what is held out: by their names, or else one fold of each.

    `kind` of preferences; where they are cross-validated every pair is learned from by some model.
    """
    named = [file for file in files if file.is_held_out]
    named = named if len(named) < len(files) else []  # something must be left to learn from
    part = Part(files=[file for file in files if file not in named])
    crossed = bool(kind) and fold > 1 and not named
    if kind and fold == 1:
        fold = FOLDS[role]
    for file in files:
        share, sources = 1.0, [_spelled(file, role, root, kind, path) for path in file.texts or [""]]
        rows = sum(file.shape.folds[kind]) if kind else file.shape.rows
        # Of a few texts a twentieth may hold none. A role that shares its rows with another keeps to one division.
        parts = (fold, 10, 5) if role == "document" else (fold,)
        one_in = next((count for count in parts if file.shape.held_out(count, kind)), 0)
        why = "" if file.shape.kind == role else f"no file of its own holds {PLURAL[role]}"
        if file in named:
            part.held_out += sources
            share, why = 0.0, "held out, as its name says"
        elif named or crossed:
            part.train += sources
        elif file.texts:  # a folder of whole texts: by the hash of their names, so that a new one moves no other
            sources.sort(key=lambda source: hashlib.sha256(Path(source).name.encode()).digest())
            count = max(1, len(sources) // fold)
            part.held_out += sorted(sources[:count])
            part.train += sorted(sources[count:])
            share = 1 - count / len(sources)
        elif one_in:
            part.held_out += [f"{source}@fold0/{one_in}" for source in sources]
            part.train += [f"{source}@without0/{one_in}" for source in sources]
            share = 1 - 1 / one_in
        else:
            part.train += sources
        part.rows += round(share * rows)
        part.rows_held_out += round((1 - share) * rows)
        divided = f"1 in {one_in or fold} held out" if 0 < share < 1 else ""
        _note(file, f"{'held-out ' if file in named else ''}{PLURAL[role]}", why, divided)
    return part


def _note(file: File, role: str, *why: str) -> None:
    """Note a role that a file plays, and why; each once."""
    file.roles += [role] if role not in file.roles else []
    file.why += [one for one in why if one and one not in file.why]


def _adapter(shape: Shape, role: str) -> str | None:
    """Return the adapter through which a file plays a role, "" where it needs none; None where there is none."""
    if shape.kind == role:
        return shape.adapter or ""
    if shape.adapter is None:
        return "messages"
    return shape.adapter if role in adapters.ADAPTERS[shape.adapter] else None


def _spelled(file: File, role: str, root: Path | None, kind: str, text: str) -> str:
    """Return a source as a role names it; of the `text` files of many, that one."""
    shape = file.shape
    adapter, name = _adapter(shape, role), text or shape.source
    if root is not None and Path(name).is_absolute():
        name = f"@data/{Path(name).relative_to(root).as_posix()}"
    mixed = kind and len(shape.folds) > 1
    return f"{adapter}{':' if adapter else ''}{name}{f'@{kind}' if mixed else ''}"


def _root(files: Sequence[File]) -> Path | None:
    """Return the folder that all local files lie in; None where there are none."""
    paths = [path for file in files for path in file.texts or [file.shape.source] if Path(path).is_absolute()]
    return Path(os.path.commonpath([Path(path).parent for path in paths])) if paths else None
