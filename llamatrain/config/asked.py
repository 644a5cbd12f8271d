"""What a program tells of itself before it imports anything heavy: its help, and its composed configuration."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

from llamatrain.config.options import asks
from llamatrain.stopping import started_module


def answer(package: str) -> None:
    """Answer --help and --cfg job, and end, where this process was started so for a program of `package` (`python -m`).

    Packages of programs call it in their first lines: what the programs themselves import takes seconds.
    """
    module = started_module(package)
    if not module or not asks(sys.argv[1:]):
        return
    prefix = package.rpartition(".")[0]
    for name, program in importlib.import_module(f"{package}.config").PROGRAMS.items():
        if module == f"{prefix}.{program.module}".strip("."):
            from llamatrain.config.program import tell

            assert program.schema is not None, module
            tell(name, program.schema, sys.argv[1:], about(module), program.plans, program.parallel)


def about(module: str) -> str:
    """Return the docstring of a module that is not imported; of a package that of its __main__."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{module}.__main__")
    assert spec is not None and spec.origin is not None, module
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
