"""--help and --cfg job of every program: at once, without torch, as wide as the terminal, and every key explained."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.programs import FOLDERS, PROGRAMS
from llamatrain.config.compose import compose_dict
from llamatrain.config.help import help_text
from llamatrain.config.meanings import meanings

NESTED = ("pretrain", "sft", "reward", "rlhf", "evaluation", "toyworld", "launch", "configs")
HEAVY = {"torch", "deepspeed", "wandb", "datasets", "transformers", "numpy", "pyarrow"}
LIGHT = {"numpy", "pyarrow"}  # for plans, which look at data
# Starts each program as `python -m` does, in a child of a process that has imported what they all need.
ASK = """
import io, json, os, runpy, sys
import llamatrain.config.program
jobs, heavy = json.loads(sys.argv[1])
for module, *arguments in jobs:
    reader, writer = os.pipe()
    if os.fork() == 0:
        sys.argv, sys.orig_argv = ["-m", *arguments], [sys.executable, "-m", module, *arguments]
        sys.stdout, code = io.StringIO(), None
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        found = [module, arguments[0], code, sys.stdout.getvalue(), sorted(set(heavy) & set(sys.modules))]
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    print(open(reader).read(), flush=True)
    os.wait()
"""
# What says where a value is from, not what it is.
SOURCE = re.compile(r"\(.*?\)|paper [^;:]*|released (code|rule|params\.json)|our choice|[;:,]")


def asked(folder: Path, prefix: str) -> list[Any]:
    """Ask every program for its help and its configuration; `folder` holds the packages."""
    modules = [f"{prefix}{program.module}" for program in PROGRAMS.values()]
    jobs = [[module, *arguments] for module in modules for arguments in (["--help"], ["--cfg", "job"])]
    environ = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "80"}
    command = [sys.executable, "-P", "-c", ASK, json.dumps([jobs, sorted(HEAVY)])]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=folder, timeout=240)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def installed(tmp_path: Path, repository: Path) -> Path:
    """The packages as a wheel nests them: the stages inside the one package."""
    inside = tmp_path / "llamatrain"
    inside.mkdir()
    for path in [*(repository / "llamatrain").iterdir(), *(repository / folder for folder in NESTED)]:
        (inside / path.name).symlink_to(path)
    return tmp_path


@pytest.mark.parametrize("layout", ["checkout", "wheel"])
def test_no_program_imports_anything_heavy_to_tell_of_itself(
    layout: str, repository: Path, request: pytest.FixtureRequest
) -> None:
    checkout = layout == "checkout"
    told = asked(repository, "") if checkout else asked(request.getfixturevalue("installed"), "llamatrain.")
    assert len(told) == 2 * len(PROGRAMS)
    for module, option, code, text, heavy in told:
        assert (code, heavy) == (0, []), (module, option, text)
        if option != "--help":
            assert re.match(r"[a-z_]+:", text), module
        else:
            assert "Usage: llamatrain " in text, module
            assert max(map(len, text.splitlines())) <= 80, module


@pytest.mark.parametrize("layout", ["checkout", "wheel"])
def test_descriptions_and_plans_need_no_torch(layout: str, repository: Path, request: pytest.FixtureRequest) -> None:
    checkout = layout == "checkout"
    folder, prefix = (repository, "") if checkout else (request.getfixturevalue("installed"), "llamatrain.")
    plans = [f"{prefix}{stage}.plan" for stage in FOLDERS if (repository / stage / "plan.py").is_file()]
    assert f"{prefix}pretrain.plan" in plans
    wanted = [f"{prefix}launch.programs", f"{prefix}launch.plan", *plans]
    code = f"import sys; import {', '.join(wanted)}; print(sorted({HEAVY - LIGHT!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_key_has_a_meaning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10000")
    text = help_text(name, "It does something.")
    keys = re.findall(r"^  ([\w.]+)=", text, re.M)
    told = meanings(name)
    assert keys
    for key in keys:
        assert len(SOURCE.sub("", told.get(key, "")).strip()) >= 12, f"{key}: {told.get(key, '')}"
    missing = [key for key in keys if re.search(rf"^  {re.escape(key)}= ", text, re.M)]
    assert bool(missing) == ("Keys that need a value:" in text)
    assert keys[: len(missing)] == missing, "they come first"


def test_the_keys_are_those_of_the_configuration() -> None:
    text = help_text("ppo", "")
    assert re.search(r"^  critic_optim\.lr=9\.0e-06 +learning rate of the critic", text, re.M)
    assert re.search(r"^  gate\.safety_threshold=0\.15 ", text, re.M)
    assert re.search(r"^  run\.save_every=20 +iterations between checkpoints", text, re.M), "the program's own word"
    keys = set(re.findall(r"^  (\w+)[.=]", text, re.M))
    assert keys == set(compose_dict("ppo"))
