"""Holds README, CONTRIBUTING and docs/ against the code: commands, keys, folders, links and make's targets exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from launch import new
from launch.cli import ranks_asked
from launch.estimate.__main__ import OWN as PLANNED
from launch.estimate.config import PlanConfig
from launch.graph import Graph, distributed
from launch.graphs.chat import chat, with_files_to_come
from launch.pipeline import PipelineConfig, divided
from launch.plan import Composed
from launch.plan import compose as compose_stage
from launch.programs import PROGRAMS, with_keys
from launch.slurm.__main__ import OWN
from launch.slurm.arguments import split
from launch.slurm.config import SlurmConfig
from llamatrain.config.compose import compose, compose_dict
from llamatrain.config.presets import preset_overrides
from tests.launch.test_roles import dialogues, pairs, texts, write
from toyworld.judge import judge_of

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE = {"runs", "build", "dist", "wandb", "htmlcov"}  # folders that programs and tools make

START = re.compile(
    r"(?:\S*/)?llamatrain (?P<cli>[\w.]+)(?P<a>.*)|.*(?:-m|--module) llamatrain\.(?P<module>[\w.]+)(?P<b>.*)"
)


def lines(page: Path) -> Iterator[str]:
    """Yield the lines of the fenced blocks without a trailing comment, and the inline code."""
    text = page.read_text()
    for block in re.findall(r"^```\w*\n(?!#!)(.*?)^```", text, re.M | re.S):  # a whole script is no list of commands
        yield from (re.sub(r"\s+# .*", "", line).strip() for line in block.splitlines())
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        yield re.sub(r"\s+\\?\| .*", "", code)  # a pipe, which tables spell with a backslash


def commands() -> list[Any]:
    """Return every command of the pages that starts a program: (program, its arguments)."""
    found = []
    modules = {program.module: name for name, program in PROGRAMS.items()}
    for page in PAGES:
        for line in lines(page):
            match = START.fullmatch(line)
            if match and "<" not in line:  # `<name>` stands for any
                program = match["cli"] or modules.get(match["module"], match["module"])
                found.append(
                    pytest.param(program, shlex.split(match["a"] or match["b"] or ""), id=f"{page.name} {line}")
                )
    return found


COMMANDS = commands()


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) > 15


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the README's `new` makes of texts, dialogues and pairs in my_data: the preset `mine`, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "my_data/texts.jsonl", texts(300))
    write(tmp_path / "my_data/chats.jsonl", dialogues(300))
    write(tmp_path / "my_data/pairs.jsonl", pairs(300))
    with pytest.raises(SystemExit, match="0"):
        new.main(["mine", "from=my_data"])


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(("program", "arguments"), COMMANDS)
def test_a_command_composes(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert program in PROGRAMS
    _, arguments = ranks_asked(program, with_keys(program, arguments))
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("--")]
    for argument in set(arguments) - set(overrides):
        assert argument in ("...", "--help", "--cfg", "job", "--multirun", "--watch") or argument.startswith(
            "--dry-run"
        )
    if "--multirun" in arguments:  # of several values the first
        overrides = [re.sub(r"=([^\[,]+),.*", r"=\1", override) for override in overrides]
    if program == "slurm" and overrides:
        own, overrides = split([re.sub(r"^cluster=my\S+\.yaml", "cluster=cpu", one) for one in overrides], OWN, OWN)
        program = compose("slurm", SlurmConfig, own).program
    if program == "plan":
        own, overrides = split(overrides, PLANNED, ("cluster", "resources"))
        program = compose("plan", PlanConfig, own).program
        overrides += ["dry_run=true"] * (program == "pipeline")  # data may be to come
    if program == "pipeline":
        _composes_all_stages(overrides)
    else:
        compose_dict(program.replace(".", "_"), overrides)


KNOWN = Composed()


def _composes_all_stages(overrides: list[str]) -> None:
    presets = [override.removeprefix("preset=") for override in overrides if override.startswith("preset=")]
    assert presets
    theirs = [override for name in presets for override in preset_overrides("pipeline", name)]
    # data=my_data.yaml is a file of the user's, which is not here.
    typed = [re.sub(r"^data=my\S+\.yaml", "data=toyworld", one) for one in overrides if not one.startswith("preset=")]
    own, staged = divided([*theirs, *typed])
    cfg, graph = compose("pipeline", PipelineConfig, own), Graph()
    data = with_files_to_come(cfg, cfg.data)[0] if "dry_run=true" in overrides else cfg.data
    chat(graph, cfg, data)
    for stage in distributed(list(graph.stages.values()), staged):
        compose_stage(stage, presets, None, KNOWN)


def flat(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from flat(value, f"{prefix}{key}.")


@cache
def known_keys() -> set[str]:
    """Return every key and group of every program, also as a pipeline takes them, after the program's name."""
    names = [program.replace(".", "_") for program in PROGRAMS]
    own = {name: set(flat(compose_dict(name))) for name in names}
    return {"preset", *(key for name in names for one in own[name] for key in (one, f"{name}.{one}"))}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_the_text_exist(page: Path) -> None:
    for code in lines(page):
        match = re.fullmatch(r"([a-z][\w.]*)=\S+", code)
        if match and code != "key=value":
            assert match[1] in known_keys(), code


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_the_tree_is_the_folders(page: Path) -> None:
    tree = [line.split("/")[0] for line in lines(page) if re.match(r"\w+/ {2,}", line)]
    folders = {
        path.parent.relative_to(ROOT).parts[0] for pattern in ("*/*.*", "*/*/*.*") for path in ROOT.glob(pattern)
    }
    assert sorted(tree) == sorted(
        f for f in folders if not f.startswith((".", "_")) and f not in MADE and "egg" not in f
    )


def test_every_program_stands_in_the_readme() -> None:
    table = (ROOT / "README.md").read_text()
    assert not [name for name in PROGRAMS if f"`{name}`" not in table]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:docs|llamatrain|tests|launch|configs)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_the_readme_activates_before_the_first_bare_command() -> None:
    fenced = "\n".join(re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)).splitlines()
    first = next(number for number, line in enumerate(fenced) if line.startswith("llamatrain "))
    assert "source .venv/bin/activate" in fenced[:first]


def test_the_answers_in_the_readmes_chat_are_right_in_the_demos_world() -> None:
    text = (ROOT / "README.md").read_text()
    asked = re.findall(r"^> (.*)\n(.*)", text, re.M)
    judge = judge_of(compose_dict("toyworld", ["preset=demo"])["seed"])
    marks = [judge.judge([{"role": "user", "content": question}], answer) for question, answer in asked]
    assert len(marks) == 3
    assert all(
        max(mark.helpfulness, "task: adversarial" in mark.reasons) >= 0.9 and mark.safety >= 0.9 for mark in marks
    )


def test_help_of_make_is_its_first_comment() -> None:
    said = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert {line.split()[1] for line in said.splitlines() if line.startswith("make ")} >= {"demo", "test", "check"}
    assert "stamps" not in said


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    named = {word for page in PAGES for line in lines(page) for word in re.findall(r"^make (\w+)", line)}
    assert named
    assert named <= targets
