"""How the code is built, in figures: a JSON line in results/structure.jsonl for this checkout, or for another.

    python benchmarks/structure.py
    python benchmarks/structure.py --checkout ../former

Modules, functions, circles of imports, comments and comprehensions are those of the packages' own code, tests and
benchmarks apart. `places` are the files beyond its own folder, its root YAML and the docs in which a program's name
stands as a word in quotes, `places by nature` those among them that are about particular programs (BY_NATURE). `--help`
is the median of some starts of `sft --help`, in seconds of processor time.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chain import commit, machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results" / "structure.jsonl"
PACKAGES = ("llamatrain", "pretrain", "sft", "reward", "rlhf", "evaluation", "toyworld", "launch")
PROGRAM = "rejection_sampling"  # whose name is looked for
BY_NATURE = (
    "launch/graphs/chat.py",  # the method is a sequence of programs
    "llamatrain/config/renamed.py",  # a key had another name in one program, and not in others
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONG = 50  # lines of a function
STARTS = 5


def main() -> int:
    """Measure, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    checkout = parser.parse_args().checkout.resolve()
    line = {
        "commit": _git(checkout) or commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        **measured(checkout),
    }
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    for name, value in line.items():
        print(f"{name:32} {value}")
    return 0


def measured(checkout: Path) -> dict[str, Any]:
    """Return the figures of a checkout."""
    modules = {name: path for package in PACKAGES for name, path in _modules(checkout, package)}
    trees = {name: ast.parse(path.read_text()) for name, path in modules.items()}
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
    functions = {
        f"{name}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    }
    lines = sum(lengths.values())
    comments = sum(_comments(path) for path in modules.values())
    comprehensions = sum(isinstance(node, COMPREHENSIONS) for tree in trees.values() for node in ast.walk(tree))
    presets = sorted((checkout / "configs" / "preset").glob("*.yaml"))
    places = _places(checkout)
    return {
        "modules": len(modules),
        "lines": lines,
        "longest module": _largest(lengths),
        "longest function": _largest(functions),
        f"functions above {LONG} lines": sum(length > LONG for length in functions.values()),
        "circles": circles({name: set(_imported(name, modules[name], tree, modules)) for name, tree in trees.items()}),
        "comments per 100 lines": round(100 * comments / lines, 1),
        "comprehensions per 100 lines": round(100 * comprehensions / lines, 1),
        "places": [place for place in places if place not in BY_NATURE],
        "places by nature": [place for place in places if place in BY_NATURE],
        "lines of presets": sum(len(path.read_text().splitlines()) for path in presets),
        "--help seconds": round(statistics.median(_help_seconds(checkout) for _ in range(STARTS)), 2),
    }


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in imports[name]:
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(imports):
        if name not in number:
            visit(name)
    return found


def _modules(checkout: Path, package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((checkout / package).rglob("*.py")):
        parts = path.relative_to(checkout).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imported(name: str, path: Path, tree: ast.Module, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that one imports, at its top or later: a circle that a function's import hides is one, too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            wanted = [f"{base}.{alias.name}" for alias in node.names]
            wanted = [module if module in modules else base for module in wanted]
        else:
            continue
        yield from (module for module in wanted if module in modules and module != name)


def _comments(path: Path) -> int:
    with path.open("rb") as file:
        return sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(file.readline))


def _largest(sizes: dict[str, int]) -> str:
    name = max(sizes, key=sizes.__getitem__)
    return f"{sizes[name]} ({name})"


def _places(checkout: Path) -> list[str]:
    """Return the files of code and settings in which the program's name stands, beyond its own folder and root YAML."""
    own = checkout / "rlhf"
    files = [path for package in PACKAGES for _, path in _modules(checkout, package) if own not in path.parents]
    files += [checkout / "setup.py", checkout / "pyproject.toml", checkout / "Makefile"]
    quoted = re.compile(rf"""["'.]{PROGRAM}["'=.]""")
    return [str(path.relative_to(checkout)) for path in files if quoted.search(path.read_text())]


def _help_seconds(checkout: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "launch", "sft", "--help"]
    subprocess.run(command, cwd=checkout, env={**os.environ, "COLUMNS": "80"}, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _git(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
