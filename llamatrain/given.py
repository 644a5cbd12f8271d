"""What a plan is given beside a program's settings: models' shapes, vocabularies and counts of rows, of files that are there,
of those that earlier stages will make, or as the paper has them. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .data.rows import count_rows
from .errors import UserError
from .manifest import checkpoint_folder
from .model.config import ModelConfig, load_config
from .planning import Files, Rows
from .tokenizer import Tokenizer

SOURCE = re.compile(
    r"(?:\w+:)?(?P<path>@?[^@]+)(?:@(?P<kind>helpfulness|safety))?(?:@(?P<part>fold|without)\d+/(?P<of>\d+))?"
)
BYTES = 4.5  # of a row of JSON per token, its punctuation included


# Data that are not there yet are taken to be as many and as long as the paper's.
TURNS = 798.5  # tokens of a dialogue with its response (table 6, Meta's)
PAPER = {
    "dialogue": Rows(27_540, TURNS, "27,540 dialogues (paper 3.1) of 800 tokens, as long as the pairs'"),
    "preference": Rows(709_046, TURNS, "709,046 pairs of each kind, half of Meta's, of 800 tokens (paper, table 6)"),
    "prompt": Rows(10_000, TURNS - 234.1, "10,000 prompts (our assumption) of 564 tokens (paper, table 6)"),
}
HELD_OUT = {
    "dialogue": Rows(1_000, TURNS, "1,000 held-out dialogues (our assumption)"),
    "preference": Rows(10_000, TURNS, "10,000 held-out pairs (our assumption)"),
    "prompt": Rows(4_000, TURNS - 234.1, "4,000 held-out prompts (paper 3.4.2)"),
}
ANSWER = 234.1  # tokens of a response (paper, table 6)


def written(most: int) -> float:
    """Return the tokens of a response of at most so many, on average: the paper's, or half of the most where that is less."""
    return min(ANSWER, most / 2)


@dataclass
class Given:
    """What is known before a program runs; `made` is what earlier stages will have made, by the path that names it."""

    made: dict[str, ModelConfig | Rows | int] = field(default_factory=dict)
    default: ModelConfig | None = None  # the shape of checkpoints that are not there
    assumed: dict[str, None] = field(default_factory=dict)  # what was assumed, each once

    def model(self, path: str | None, key: str = "checkpoint") -> ModelConfig:
        """Return the shape of a checkpoint's model."""
        found = self.made.get(path or "")
        if isinstance(found, ModelConfig):
            return found
        if path is not None and Path(path).is_dir():
            return load_config(checkpoint_folder(Path(path), ""))[0]
        if self.default is not None:
            return self.default
        raise UserError(
            f"{key}={path}: there is no such checkpoint, and no preset says which model it is; need preset=<name>"
        )

    def vocabulary(self, path: str | None) -> int | None:
        """Return how many pieces a tokenizer has; None where nobody knows yet."""
        found = self.made.get(path or "")
        if isinstance(found, int):
            return found
        return Tokenizer(Path(path)).vocab_size if path is not None and Path(path).exists() else None

    def rows(self, sources: Sequence[str], kind: str) -> Rows:
        """Return how many rows of a kind sources hold together; where one is not there, as the paper has them."""
        found = [self._rows(source, kind) for source in sources]
        count = sum(one.count for one in found)
        tokens = sum(one.count * one.tokens for one in found) / count if count else 0.0
        return Rows(count, tokens, next((one.assumed for one in found if one.assumed), ""))

    def add(self, stage: str, files: Files) -> None:
        """Note what a stage will have made, by the paths that name it: `@stage/file`, and the folder itself for an empty name."""
        self.made |= {f"@{stage}/{file}" if file else f"@{stage}": one for file, one in files.items()}

    def _rows(self, source: str, kind: str) -> Rows:
        parts = SOURCE.fullmatch(source)
        path = parts["path"] if parts else source
        found = self.made.get(path)
        if not isinstance(found, Rows):
            found = _counted(Path(path)) or {**PAPER, **(HELD_OUT if "_eval" in path else {})}[kind]
        if found.assumed:
            self.assumed[found.assumed] = None
        share = 1.0
        if parts and parts["of"]:
            share = 1 / int(parts["of"]) if parts["part"] == "fold" else 1 - 1 / int(parts["of"])
        if parts and parts["kind"] and not found.assumed:  # those assumed are of each kind
            share /= 2
        return found.part(share)


def _counted(path: Path) -> Rows | None:
    """Return the rows of a file that is there; the tokens follow from its bytes, of a compressed one from the paper's rows."""
    if not path.is_file():
        return None
    count = count_rows(path)
    packed = path.suffix in (".gz", ".zst", ".parquet")
    return Rows(count, TURNS if packed or not count else path.stat().st_size / count / BYTES)
