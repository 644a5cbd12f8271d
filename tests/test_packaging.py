"""Holds the package's metadata against the source: folders, data files, dependencies, tested versions."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
STAGES = {"pretrain", "sft", "reward", "rlhf", "evaluation", "toyworld", "launch"}
FOLDERS = {"llamatrain", *STAGES}
OPTIONAL = {
    "lm_eval",
    "vaderSentiment",
    "fastapi",
    "py3langid",
    "pynvml",
    "transformers",
    "uvicorn",
}  # imported where they are used, with a message where they are absent
IMPORTED_AS = {"hydra-core": "hydra", "PyYAML": "yaml", "python-stdnum": "stdnum"}


@cache
def metadata() -> dict[str, Any]:
    """Return what setup.py says literally."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    call = next(node.value for node in tree.body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    names = ("install_requires", "extras_require", "package_data")
    found = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg in names}
    nested = next(n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "NESTED")
    return {**found, "nested": ast.literal_eval(nested)}


def test_every_folder_with_code_is_packaged_linted_and_typed() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert folders == FOLDERS
    assert set(metadata()["nested"]) == STAGES
    assert set(tools["mypy"]["packages"]) == FOLDERS
    assert set(tools["coverage"]["run"]["source"]) == FOLDERS
    assert set(tools["importlinter"]["root_packages"]) == FOLDERS
    layers = tools["importlinter"]["contracts"][0]["layers"]
    assert [set(layer.split(" | ")) for layer in layers] == [STAGES, {"llamatrain"}]


def test_every_data_file_goes_into_the_wheel() -> None:
    patterns = metadata()["package_data"]
    # A wheel nests the folders in the library; the library's own packages lie where their names say.
    nested = {f"llamatrain.{folder}": folder for folder in (*FOLDERS, "configs")}
    folders = {name: ROOT / nested.get(name, name.replace(".", "/")) for name in patterns}
    carried = {path for name, globs in patterns.items() for glob in globs for path in folders[name].glob(glob)}
    data = {p for folder in (*FOLDERS, "configs") for p in (ROOT / folder).rglob("*") if p.is_file()}
    assert {path for path in data if path.suffix not in (".py", ".pyc")} == carried


def test_what_is_imported_is_required() -> None:
    imported = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.split(".")[0])
    required = [Requirement(line).name for line in metadata()["install_requires"]]
    found = imported - sys.stdlib_module_names - FOLDERS - OPTIONAL
    assert found == {IMPORTED_AS.get(name, name) for name in required}


def test_the_tested_versions_lie_within_the_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if re.match(r"\w", line))
    for line in [*metadata()["install_requires"], *metadata()["extras_require"]["test"]]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name]), line


def test_packages_reexport_nothing() -> None:
    """An import names the module that is meant, and costs no more than that module."""
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")):
        tree = ast.parse(path.read_text())
        names = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert set(names) <= {"asked", "stopping"}, path
        assert not any(isinstance(node, ast.Import) for node in tree.body), path
