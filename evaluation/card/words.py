"""card.yaml: what a model card needs and no run knows, said by people: who made the model, what for, under which licence.

    developers: Example Lab
    contact: models@example.org

A key that is left out is null, and the card says "Not stated." there. Figures of models that no run here made, such as other
sizes of a family, stand under `models` and `tables`; the card says that they are stated, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamatrain.errors import UserError
from llamatrain.text_files import as_kind
from llamatrain.yaml_files import read_yaml

NAME = "card.yaml"
# What a published model's developers have to say; the rest may stay "Not stated."
REQUIRED = {  # field of the card -> key
    "Model developers": "developers",
    "License": "license",
    "Languages": "languages",
    "Intended use cases": "intended_use",
    "Out-of-scope uses": "out_of_scope",
    "Overview": "data",
    "Limits": "limits",
    "Contact": "contact",
}


@dataclass
class Model:
    """A model whose figures are given by hand; null is what is not known."""

    name: str
    data: str | None = None
    parameters: str | None = None
    context: str | None = None
    gqa: bool | None = None
    tokens: str | None = None
    lr: str | None = None
    gpu_hours: float | None = None
    gpu_watts: float | None = None


@dataclass
class Figures:
    """A table that is given by hand."""

    title: str
    head: list[str]
    rows: list[list[Any]]
    note: str = ""


@dataclass
class Words:
    """What people say; EXAMPLE says what each key means."""

    name: str | None = None
    developers: str | None = None
    contact: str | None = None
    summary: str | None = None
    variations: str | None = None
    architecture: str | None = None
    dates: str | None = None
    status: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    license_file: str | None = None
    paper: str | None = None
    languages: list[str] = field(default_factory=list)
    intended_use: str | None = None
    out_of_scope: str | None = None
    factors: str | None = None
    region: str | None = None
    offset: str | None = None
    data: str | None = None
    freshness: str | None = None
    limits: str | None = None
    tags: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    base_model: str | None = None
    models: list[Model] = field(default_factory=list)
    tables: list[Figures] = field(default_factory=list)

    def lacking(self) -> list[str]:
        """Return what its publication needs and is not said."""
        return [name for name in REQUIRED.values() if not getattr(self, name)]


EXAMPLE = """\
# What only people can say of a model; `llamatrain card` has the rest from the runs. Null or left out: the card says "Not stated."
# Texts may be of several lines and hold Markdown.

name: null            # the model's name (null: the pipeline's and the stage's)
summary: null         # a sentence or two about the model, the card's first
developers: null      # who made it
contact: null         # where questions and comments go: an address, a page of issues
license: null         # as Hugging Face names it: apache-2.0, llama2, other, ...
license_name: null    # of license=other: its name
license_link: null    # and where its text can be read
license_file: null    # file with its text, beside this one: copied beside the card as LICENSE
paper: null           # a paper or page to cite
languages: []         # that the model is meant for, by their codes: [en]

intended_use: null    # what it is for, and for whom
out_of_scope: null    # what it must not be used for
data: null            # what the training data are, where they are from, whether they hold personal data
freshness: null       # until when the data reach
limits: null          # known limits and risks, and what users should test before they use it
factors: null         # about the training: libraries, clusters, what others ran (annotation, evaluation)
region: null          # where the machines stood: the grid behind the carbon intensity (rates.carbon_intensity)
offset: null          # whether and how the carbon was offset

variations: null      # of the model (null: those of the pipeline)
architecture: null    # (null: from the runs)
dates: null           # of training (null: from the runs)
status: null          # whether it changes, whether later versions are to come
tags: []              # further tags on the hub
datasets: []          # data sets on the hub that it was trained on, as owner/name
base_model: null      # model on the hub that it was made from, as owner/name

models: []            # other sizes, whose figures are stated: [{name, data, parameters, context, gqa, tokens, lr, gpu_hours, gpu_watts}]
tables: []            # other evaluations, whose figures are stated: [{title, note, head, rows}]
"""


def read_words(path: Path | None) -> Words:
    """Return what people say in a file; UserError where it says what no key takes. Nothing where there is no file."""
    if path is None:
        return Words()
    try:
        found = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"words={path} does not exist; `llamatrain card ... init=true` writes one to fill in") from None
    found = {} if found is None else found
    unknown = sorted(set(found) - set(Words.__dataclass_fields__)) if isinstance(found, dict) else []
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]}; need one of {', '.join(Words.__dataclass_fields__)}")
    try:
        words = as_kind(_without_nulls(found), Words)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    for number, table in enumerate(words.tables):
        for row in table.rows:
            if len(row) != len(table.head):
                raise UserError(
                    f"{path}: tables.{number}: a row has {len(row)} cells, need {len(table.head)} as in head"
                )
    return words


def _without_nulls(found: Any) -> Any:
    """Return it without keys that are null: they are what is not said, whatever their type."""
    if isinstance(found, dict):
        return {key: _without_nulls(value) for key, value in found.items() if value is not None}
    return [_without_nulls(one) for one in found] if isinstance(found, list) else found
