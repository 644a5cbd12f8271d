"""What tests and benchmarks name by strings is there: a slow one that misses its function is seldom run."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

from tests.slurm.faults import PHASES

# Of a module in a package: names with a single dot are also those of files, as `sft.jsonl`.
NAME = re.compile(r"(?:llamatrain|pretrain|sft|reward|rlhf|evaluation|toyworld|launch)(?:[.:]\w+){2,}")


def test_functions_are_there(repository: Path) -> None:
    spans = runpy.run_path(str(repository / "benchmarks/tracing/sitecustomize.py"))["SPANS"]
    timed = {f"{module}:{function}" for module, functions in spans.items() for function in functions}
    found = {name for folder in ("tests", "benchmarks") for name in names_in(repository / folder)}
    assert {"llamatrain.model.decoding.Decoding.logits", "llamatrain.fit:train_step"} <= found
    assert [name for name in sorted(found | timed) if not is_there(name)] == []


def test_phases_name_functions_of_their_files(repository: Path) -> None:
    paths = [str(path.relative_to(repository)) for path in repository.glob("*/**/*.py")]
    for phase, file, functions in PHASES:
        sources = [(repository / path).read_text() for path in paths if re.fullmatch(file, path)]
        for function in functions.split("|"):
            assert any(f"def {function}(" in source for source in sources), (phase, function)


def names_in(folder: Path) -> Iterator[str]:
    """Yield the strings that look like names of this house's functions."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
                yield node.value


def is_there(name: str) -> bool:
    try:
        resolve_name(name)
    except (AttributeError, ImportError):
        return False
    return True
