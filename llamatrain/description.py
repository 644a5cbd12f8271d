"""What a program is, as data: `config.py` of each folder describes the folder's own programs in PROGRAMS, name -> Program.

Help, the pipeline and the report look up here what they show of a program, and name none. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LOSSES = {"eval/loss": "held-out loss", "eval/perplexity": "perplexity", "train/loss": "loss"}


@dataclass(frozen=True)
class Chart:
    """Series that share an axis in the report, and what they are called there."""

    title: str
    note: str
    y_label: str
    metrics: Mapping[str, str]
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Table:
    """Rows that a program learns from, of which the report shows some: the files of a key, or a file of its own."""

    title: str
    rows: str  # what they are, which says what is strange among them: dialogue, preference, best, rollout
    key: str = ""
    file: str = ""


@dataclass(frozen=True)
class Headline:
    """The figures that stand for a run in one line: metric -> its name there, best first."""

    metrics: Mapping[str, str] = field(default_factory=dict)
    whose: str = ""  # who says so, or of what
    counts: bool = False  # they are counts, and written whole
    of_last: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # ^ instead, where metrics are <model>/<metric>: who says so -> metric -> name, the first that the last model has
    best_of: str = ""  # instead, where metrics bear numbers after this: the first and the last of them


@dataclass(frozen=True)
class Program:
    """A module that a user can start, and what is told of it."""

    module: str  # from its folder on
    group: str  # of the help's list
    summary: str
    parallel: bool = False  # shares its work among the ranks of torch.distributed
    plans: bool = False  # has a dry run
    schema: type | None = None  # of its settings; None: the module has them (launch's own)
    makes: tuple[str, ...] = ()  # files in its run folder that other stages read; "" is the folder itself
    headline: Headline = Headline()
    model: str = ""  # what its model is, for the report; empty where it makes none that writes text
    trained_on: str = ""  # and on how much, from its settings and last metrics
    chats: bool = False  # that model knows the chat format
    curve: bool = False  # it fits something: train/loss over steps is drawn
    charts: tuple[Chart, ...] = ()  # what is looked at first in its other series
    learns_from: tuple[Table, ...] = ()
