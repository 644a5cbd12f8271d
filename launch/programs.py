"""The programs: their modules and what each does, and how a process of one is started from a checkout or an installation."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from llamatrain.description import Program
from llamatrain.fitting import Fit
from llamatrain.planning import Planner

from .measure.config import MeasureConfig

# "" in a checkout (this package is `launch`), "llamatrain." where it is installed (`llamatrain.launch`).
PREFIX = (__package__ or "launch").removesuffix("launch")
ROOT = Path(__file__).resolve().parent.parent
PLAIN = re.compile(r"[A-Za-z0-9_./@%+:-]+( [A-Za-z0-9_./@%+:-]+)*")  # what Hydra reads as it stands
# What setup.py requires: the name it is imported by -> its distribution.
NEEDED = {
    "torch": "torch",
    "deepspeed": "deepspeed",
    "datasets": "datasets",
    "huggingface_hub": "huggingface_hub",
    "sentencepiece": "sentencepiece",
    "tokenizers": "tokenizers",
    "wandb": "wandb",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "yaml": "PyYAML",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "rich": "rich",
    "jinja2": "jinja2",
    "ftfy": "ftfy",
    "pyarrow": "pyarrow",
    "rensa": "rensa",
    "zstandard": "zstandard",
    "stdnum": "python-stdnum",
}


FOLDERS = ("pretrain", "sft", "reward", "rlhf", "evaluation", "toyworld")  # each describes its programs in config.py
TOGETHER = "The whole pipeline"
GROUPS = (TOGETHER, "Data", "Training", "Preferences", "Measuring")
OWN = {
    "pipeline": Program(
        "launch.pipeline", TOGETHER, "from text to a chat model: all stages, in order; finished ones are skipped"
    ),
    "new": Program(
        "launch.new", TOGETHER, "your own data -> a preset fitted to them and this machine", positional=("name",)
    ),
    "plan": Program(
        "launch.estimate",
        TOGETHER,
        "what a pipeline or a program will take: memory, what fits, days, energy, money",
        positional=("program",),
    ),
    "stage": Program("launch.stage", TOGETHER, "one stage of a planned pipeline", positional=("pipeline", "stage")),
    "slurm": Program(
        "launch.slurm",
        TOGETHER,
        "a program, or a pipeline's stages, as Slurm jobs that resume by themselves",
        positional=("program",),
    ),
    "slurm.attempt": Program(
        "launch.slurm.attempt",
        TOGETHER,
        "a job's start noted; a stop after restarts without progress",
    ),
    "report": Program(
        "launch.report",
        TOGETHER,
        "one self-contained HTML page from a pipeline's run folders, or one that compares several",
        positional=("folder", "others..."),
    ),
    "runs": Program(
        "launch.listing",
        TOGETHER,
        "all run folders: state, step, result, age, size, next command",
        positional=("folder",),
        light=True,
    ),
    "status": Program(
        "launch.status",
        TOGETHER,
        "a pipeline's stages: state, step, loss, speed, time left, restarts, cost",
        positional=("folder",),
    ),
    "measure": Program(
        "launch.measure",
        TOGETHER,
        "every kept checkpoint of a stage, measured as the last one is",
        schema=MeasureConfig,
        positional=("checkpoints",),
        follows="checkpoints",
    ),
    "scaling": Program(
        "launch.scaling",
        "Measuring",
        "reward model accuracy over data and model size: a run of `reward` repeated on shares of its pairs",
        positional=("like",),
    ),
    "carbon": Program(
        "launch.carbon",
        TOGETHER,
        "energy and carbon of runs and pipelines: the model card's table",
        positional=("folders...",),
    ),
    "clean": Program(
        "launch.clean",
        TOGETHER,
        "replaced results and tokenized data: listed, and deleted on request",
        positional=("folder",),
    ),
    "completion": Program(
        "launch.completion",
        TOGETHER,
        "a script that lets bash, zsh or fish complete programs, keys and choices",
        positional=("shell",),
        light=True,
    ),
    "chat": Program(
        "launch.chat",
        TOGETHER,
        "talk to a checkpoint in the terminal, or to two side by side",
        positional=("checkpoint", "against"),
    ),
}


def described() -> dict[str, Program]:
    """Return name -> what every program says of itself, by group. It is all that launch imports of a stage; no torch."""
    found = dict(OWN)
    for folder in FOLDERS:
        found |= importlib.import_module(f"{PREFIX}{folder}.config").PROGRAMS
    return dict(sorted(found.items(), key=lambda item: GROUPS.index(item[1].group)))


PROGRAMS = described()


def fits() -> dict[str, Fit]:
    """Return program -> how `new` fits it to data and machine, from the plan.py of the folders that have one."""
    found: dict[str, Fit] = {}
    for folder in FOLDERS:
        module = f"{PREFIX}{folder}.plan"
        if importlib.util.find_spec(module) is not None:
            found |= getattr(importlib.import_module(module), "FITS", {})
    return found


def plans() -> dict[str, Planner]:
    """Return program -> what it asks of a machine, from the plan.py of the folders that have one."""
    found: dict[str, Planner] = {}
    for folder in FOLDERS:
        module = f"{PREFIX}{folder}.plan"
        if importlib.util.find_spec(module) is not None:
            found |= importlib.import_module(module).PLANS
    return found


def schema_of(program: str) -> type:
    """Return the dataclass of a stage's program's settings."""
    schema = PROGRAMS[program].schema
    assert schema is not None, program
    return schema


def find(name: str) -> str | None:
    """Return the program of this name; `reward_evaluate` (its configuration's name) is `reward.evaluate`."""
    return {known.replace(".", "_"): known for known in PROGRAMS}.get(name.replace(".", "_"))


def nearest(name: str, names: list[str]) -> str:
    """Return a hint such as "; did you mean 'sft'?", empty where nothing is near: no hint is better than a wrong one."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.65)
    return f"; did you mean '{close[0]}'?" if close else ""


def missing_packages() -> list[str]:
    """Return the distributions that this interpreter lacks, without importing any."""
    return [package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None]


def typed(arguments: Sequence[str]) -> str:
    """Return a command line of this installation as it can be typed here: by its name only where the PATH finds it."""
    name = Path(sys.executable).with_name("llamatrain") if PREFIX else Path(sys.executable)
    on_path = shutil.which(name.name)
    # Elsewhere than in this interpreter's packages (pip install --target), the command beside it is of another installation.
    # A checkout that is installed in place (pip install -e) is the interpreter's own.
    installed = (Path(sysconfig.get_path(where)).resolve() for where in ("purelib", "platlib"))
    here = ROOT.parent in installed or (ROOT / "llamatrain").is_dir()
    if PREFIX and not (here and name.exists()):
        start = [sys.executable, "-m", "llamatrain"]
    elif on_path is not None and Path(on_path).absolute() == name:
        start = [name.name]
    else:
        start = [str(name.relative_to(Path.cwd()) if name.is_relative_to(Path.cwd()) else name)]
    return shlex.join([*start, *([] if PREFIX else ["-m", "launch"]), *arguments])


NAME = typed([]) if PREFIX else "python -m launch"  # what the user types


def with_keys(program: str, arguments: Sequence[str] | None = None) -> list[str]:
    """Return a command line whose plain arguments, in their order, have got their keys: `runs/demo` is folder='runs/demo'.

    `arguments` stand for this process's own.
    """
    own = sys.argv[1:] if arguments is None else arguments
    given = {argument.partition("=")[0] for argument in own if "=" in argument}
    left, made = [key for key in PROGRAMS[program].positional if key not in given], list[str]()
    several = list[str]()  # of a last key that takes all that are left: `folders...`
    for before, argument in itertools.pairwise(["", *own]):
        plain = "=" not in argument and not argument.startswith("-") and before != "--cfg"
        if plain and left and left[0].endswith("..."):
            several.append(quoted(argument))
        else:
            made.append(f"{left.pop(0)}={quoted(argument)}" if plain and left else argument)
    return [*made, *([f"{left[0].removesuffix('...')}=[{','.join(several)}]"] if several else [])]


def quoted(text: str) -> str:
    """Return a text as a value of an override, whatever stands in it."""
    # Hydra reads a backslash as itself but before a quote, the closing one among them.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), text)
    return f"'{escaped}'"


def override(key: str, text: str) -> str:
    """Return an override that sets a key to a text, quoted only where it must be."""
    return f"{key}={text if PLAIN.fullmatch(text) else quoted(text)}"


def command(module: str) -> list[str]:
    """Return the command that starts a program's module with this interpreter."""
    # Installed, the working directory must not shadow packages (-P); in a checkout it is where the packages are.
    safe = ["-P"] if PREFIX else []
    return [sys.executable, *safe, "-m", PREFIX + module]


def environment() -> dict[str, str]:
    """Return the environment for a program: in a checkout its packages are found from any working directory."""
    environ = dict(os.environ)
    # Threads that spin while they wait make a step ten times slower as soon as another process wants a core.
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environ.setdefault("PYTHONUTF8", "1")  # files and terminal, whatever the locale says
    if PREFIX:
        environ["LLAMATRAIN_NAME"] = NAME
    else:
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
    return environ
