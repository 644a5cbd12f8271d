"""What a program is, as data: `config.py` of each folder describes the folder's own programs in PROGRAMS, name -> Program.

Help, the pipeline and the report look up here what they show of a program, and name none. Imports no torch.

Texts with `{name}` are filled in from a run: with its settings, the last value of each of its metrics, `step`, `tokens`
(trained on), `parameters` (of its checkpoint), `rows of <key>` (read) or `rows of <name>` (made: <name>.jsonl).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LOSSES = {"eval/loss": "held-out loss", "eval/perplexity": "perplexity", "train/loss": "loss"}


# --- what the report draws ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chart:
    """Series of metrics.jsonl that share an axis in the report, and what they are called there."""

    title: str
    note: str
    y_label: str
    metrics: Mapping[str, str]
    bounds: tuple[float, float] | None = None  # values beyond are drawn at their edge
    logarithmic: bool = False


LOSS = Chart("Loss", "", "loss", {"train/loss": "training", "eval/loss": "held out"}, logarithmic=True)


@dataclass(frozen=True)
class Shares:
    """Shares with their intervals in a JSON file: of the whole under `overall`, and by each of the groups."""

    file: str
    groups: Mapping[str, Mapping[str, str]]  # key in the file -> its parts and what they are called
    of: str  # the setting that names the checkpoint they are about
    pools: str  # the setting that names runs whose shares these sum up


@dataclass(frozen=True)
class Beside:
    """Shares of several models on several kinds of rows in a JSON file, under `models`: all, and by each of the groups."""

    file: str
    groups: Mapping[str, str]  # key in the file -> what it is called


@dataclass(frozen=True)
class Reliability:
    """Predicted probabilities and what came of them in a JSON file, in bins, under `key` by what is predicted."""

    file: str
    key: str
    parts: Mapping[str, str]  # key in the file -> what is predicted


@dataclass(frozen=True)
class Listed:
    """Figures in words in a JSON file: under `key` rows of what, its value, its interval or a note, and of how many."""

    file: str
    key: str
    title: str


@dataclass(frozen=True)
class Cases:
    """Pairs of responses in a JSON file that are worth reading."""

    file: str
    lists: Mapping[str, str]  # dotted key in the file -> what the pairs are


@dataclass(frozen=True)
class BestOf:
    """A file of several scored responses to each prompt: what keeping the best of K brings."""

    file: str


@dataclass(frozen=True)
class Trials:
    """A file of temperatures that were tried: what the best of K scores at each."""

    file: str


@dataclass(frozen=True)
class Against:
    """A file of scored responses from the course of a run, against a number that each row has.

    Where given, `held_out` is a metric that is measured now and then, against the metric `over` which has that number.
    """

    file: str
    key: str
    title: str
    x_label: str
    held_out: str = ""
    over: str = ""


@dataclass(frozen=True)
class Table:
    """Rows that a program learns from, of which the report shows some: the files of a key, or a file of its own."""

    title: str
    rows: str  # what they are, which says what is strange among them: dialogue, preference, best, rollout, distilled, refused
    key: str = ""
    file: str = ""


@dataclass(frozen=True)
class Measure:
    """A number about a model: what it is called, who gives it (empty where it is a plain fact), its decimals, its range."""

    title: str
    by: str = ""
    digits: int = 3
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Course:
    """Numbers about a model whose names end in a number: how they go over it. `title` and `note` are what they are."""

    prefix: str  # of the names, before the number
    title: str
    note: str
    x_label: str
    y_label: str


@dataclass(frozen=True)
class Measures:
    """A file of numbers about several models, overall and by kind of prompt."""

    file: str
    known: Mapping[str, Measure]  # in the order of the report
    by: Mapping[str, str]  # whose numbers -> what is to be known of them, those that count first
    of_kind: Mapping[str, tuple[str, ...]]  # kind of prompts -> which numbers matter there
    courses: tuple[Course, ...] = ()


# --- programs ----------------------------------------------------------------------------------------------------


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
    """A module that a user can start, and what is said about it."""

    module: str  # from its folder on
    group: str  # of the help's list
    summary: str
    parallel: bool = False  # shares its work among the ranks of torch.distributed
    plans: bool = False  # has a dry run
    positional: tuple[str, ...] = ()  # keys that may be given by their values alone, in this order
    light: bool = False  # imports so little that the command line runs it itself
    schema: type | None = None  # of its settings; None: the module has them (launch's own)
    makes: tuple[str, ...] = ()  # files in its run folder that other stages read; "" is the folder itself
    then: str = ""  # the command that goes on from it: `{made}` is what it made, other names are its settings
    headline: Headline = Headline()
    size: str = ""  # how much it made or used, in a few words
    model: str = ""  # what its model is, for the report; empty where it makes none that writes text
    trained_on: str = ""  # and on how much
    chats: bool = False  # that model knows the chat format
    course: str = ""  # its file of answers to the same held-out prompts in the course of training
    answers: str = ""  # its file of responses to held-out prompts, by the model of its `checkpoint`
    judgements: str = ""  # its file of gold judgements, of the rows of its `responses`
    measures: Measures | None = None
    follows: str = ""  # the setting that names checkpoints, of each of which its metrics tell at its step
    charts: tuple[Chart | Shares | Beside | Reliability | Listed | Cases | BestOf | Trials | Against, ...] = ()
    learns_from: tuple[Table, ...] = ()
    experience: bool = False  # it stores the iterations that it learns from (`llamatrain.responses.stored`)
