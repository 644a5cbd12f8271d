"""Hydra's configuration as checked dataclasses: the one entry of every program.

`main(program, schema, task)` composes configs/<program>.yaml with the command line, holds the result against the
program's dataclass and runs the task. Hydra only composes: it changes no folder, sets up no logging, writes nothing.
"""

from __future__ import annotations

import atexit
import difflib
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import atomic, distributed, length, streams
from .errors import UserError, mistake, show
from .stopping import EXIT_STOPPED, Stopped, handling
from .text_files import read_text, read_yaml

C = TypeVar("C")

NEEDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}

DRY_RUN = "--dry-run"
FROM_FILE = "--config"  # of a whole configuration, as a pipeline gives it to its stages
HOME = "the shell does not expand this ~: need the whole path, or $HOME"
NOT_GIVEN = "(not given)"
EXIT_FAILURE, EXIT_USER = 1, 2
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # of a collective, in gloo's words


def config_folder() -> Path:
    """Return the folder of the YAML files: beside the package in a checkout, inside it when installed."""
    here = Path(__file__).resolve().parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def yaml_name(program: str) -> str:
    """Return what a program's YAML and its key in presets are called: `reward_evaluate` for `reward.evaluate`."""
    return program.replace(".", "_")


# --- composing ---------------------------------------------------------------------------------------------------


def preset_overrides(program: str, name: str) -> list[str]:
    """Return what preset `name` tells `program`: a list of overrides, put before the user's own."""
    return [str(override) for override in load_preset(name).get(yaml_name(program)) or []]


@lru_cache
def load_preset(name: str) -> dict[str, Any]:
    """Read configs/preset/<name>.yaml, or a file of the user's own given by its path: program -> overrides.

    UserError where it is anything else: a key that is no program's would be passed over without a word.
    """
    own, folder = Path(name), config_folder() / "preset"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    path = own if own.suffix in (".yaml", ".yml") else folder / f"{name}.yaml"
    if not path.is_file() or (path != own and name not in known):
        raise UserError(f"preset={name}: no such preset; there are {', '.join(known)}, or give a path to a .yaml file")
    preset = read_yaml(path)
    if not isinstance(preset, dict):
        raise UserError(f"preset={name} is no preset: found {show(preset)}, need `program: [overrides]`")
    programs = [*(path.stem for path in config_folder().glob("*.yaml")), "stages"]
    for program, overrides in preset.items():
        if program not in programs:
            near = difflib.get_close_matches(str(program), programs, n=1, cutoff=0.7)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise UserError(f"preset={name} is no preset: '{program}' is neither a program nor `stages`{hint}")
        texts = all(isinstance(override, str) for override in overrides) if isinstance(overrides, list) else False
        if program != "stages" and overrides is not None and not texts:
            raise UserError(f"preset={name}: {program} is {show(overrides)}, need a list of overrides like [key=value]")
    return preset


def _with_preset(program: str, overrides: Sequence[str]) -> list[str]:
    names = [o.split("=", 1)[1] for o in overrides if o.startswith("preset=")]
    own = [o for o in overrides if not o.startswith("preset=")]
    return [*itertools.chain.from_iterable(preset_overrides(program, name) for name in names), *own]


def _hydra(program: str, overrides: Sequence[str]) -> DictConfig:
    """Compose without a schema."""
    path = config_folder() / f"{yaml_name(program)}.yaml"
    if not path.is_file():
        raise UserError(f"no configuration for program '{program}' in {config_folder()}")
    GlobalHydra.instance().clear()
    overrides = _with_preset(program, overrides)
    own = next((o for o in overrides if re.match(r"[+~]*hydra\b", o)), None)
    if own is not None:
        raise UserError(f"'{own}': Hydra only composes here and has no keys of its own; run.dir says where runs lie")
    with _explained(program, overrides), initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra_compose(yaml_name(program), overrides=list(overrides))


@contextmanager
def _explained(program: str, overrides: Sequence[str], schema: type | None = None) -> Iterator[None]:
    """Turn whatever Hydra and OmegaConf raise on the user's values into a UserError.

    Hydra's own errors are not all of it: a group that is a number ends in a TypeError, an integer of thousands of digits
    in a ValueError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_explain(error, program, overrides, schema)) from error


def compose_dict(program: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose a program's configuration as a plain dictionary, without its schema; `???` stays where needed."""
    config = _hydra(program, overrides)
    with _explained(program, overrides):
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _typed(program: str, schema: type, values: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Hold composed values against the schema; some may still be missing."""
    with _explained(program, overrides, schema):
        config = OmegaConf.create(dict(values))
        _single_to_list(schema, config)
        return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), config))


def _single_to_list(schema: type, config: DictConfig) -> None:
    """Put a single value into a list where the schema has one: `train=x.jsonl` is `train=[x.jsonl]`."""
    for name, kind in get_type_hints(schema).items():
        if name not in config or OmegaConf.is_missing(config, name):
            continue
        value = config[name]
        if is_dataclass(kind) and isinstance(value, DictConfig):
            _single_to_list(cast(type, kind), value)
        elif get_origin(kind) is list and isinstance(value, str | int | float):
            config[name] = [value]


def compose(program: str, schema: type[C], overrides: Sequence[str] = (), fill: bool = False) -> C:
    """Compose a program's configuration as its dataclass; every mistake is a UserError that names the key.

    With `fill`, texts that the user must give (names, paths) may be missing: they are then NOT_GIVEN.
    """
    values = compose_dict(program, overrides)
    note_given(values, lengths_given(program, overrides))
    return check(program, schema, values, overrides, fill)


def lengths_given(program: str, overrides: Sequence[str]) -> list[str]:
    """Return which lengths the user gave: in overrides of his own, or in a preset of his own."""
    presets = [o.split("=", 1)[1] for o in overrides if o.startswith("preset=")]
    own = [o for name in presets if length.is_own(name) for o in preset_overrides(program, name)]
    return length.given([*own, *overrides])


def note_given(values: dict[str, Any], keys: list[str]) -> None:
    """Note in a program's values which lengths the user gave, where it has a run."""
    if keys and isinstance(values.get("run"), dict):
        values["run"]["given"] = keys


def check(
    program: str, schema: type[C], values: Mapping[str, Any], overrides: Sequence[str] = (), fill: bool = False
) -> C:
    """Return composed values as the program's dataclass; `overrides` are those they came from, for messages."""
    typed = _typed(program, schema, values, overrides)
    with _explained(program, overrides, schema):
        missing = sorted(OmegaConf.missing_keys(typed))
        if fill:
            for key in missing:
                OmegaConf.update(typed, key, NOT_GIVEN)
        elif missing:
            raise UserError(_explain_missing(missing, program))
        for key, value in _leaves(OmegaConf.to_container(typed, resolve=True)):
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{key}={value}: need a finite number")
        return cast(C, OmegaConf.to_object(typed))


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of everything that is neither a dictionary nor a list."""
    if not isinstance(node, dict | list):
        yield key, node
        return
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration dataclass as plain dictionaries and lists."""
    return asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config)


def _explain_missing(keys: list[str], program: str) -> str:
    needs = "; ".join(f"{key}: {_comment(program, key) or 'needs a value'}" for key in keys)
    return f"llamatrain {program} needs a value for {', '.join(keys)} ({needs})"


def _comment(program: str, key: str) -> str:
    """Return the comment beside a key in its YAML."""
    leaf = key.split(".")[-1]
    for line in read_text(config_folder() / f"{yaml_name(program)}.yaml").splitlines():
        found = re.match(rf"\s*{re.escape(leaf)}:[^#]*#\s*(.*)", line)
        if found:
            return found[1]
    return ""


def _explain(error: Exception, program: str, overrides: Sequence[str], schema: type | None = None) -> str:
    """Turn Hydra's and OmegaConf's errors into one line that names the key, the value and the need."""
    cause = error.__cause__ or error
    text = str(cause).strip() or str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    key = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '([^']+)')", text)
    if unknown:
        name = str(key or unknown[1])
        known = _known_keys(program, schema)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.7) or _same_leaf(name, known)
        hint = f"; the nearest is '{near[0]}'" if near else ""
        return f"unknown key '{name}' for llamatrain {program}{hint} (see `llamatrain {program} --help`)"
    choice = re.search(
        r"Could not find '([^']+)/([^'/]+)'\s*Available options in '[^']+':\s*(.*?)\s*Config search", str(error), re.S
    )
    if choice:
        return f"{choice[1]}={choice[2]}: no such choice; there are {', '.join(choice[3].split())}"
    unread = getattr(error, "override", None)
    if unread:
        why = HOME if re.search(r"[=,\[]~", str(unread)) else first
        return f"'{unread}' is not an override that can be read: {why}"
    if not isinstance(error, HydraException | OmegaConfBaseException):  # it does not say what it is about
        culprit = _culprit(program, overrides)
        return f"llamatrain {program}: {first}" if culprit is None else f"{show(culprit)} cannot be taken: {first}"
    several = re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", first)
    if several:
        return f"{several[1]}: several values need --multirun, which makes a run of each"
    if "Could not find" in str(error) or "Could not load" in str(error):
        return f"llamatrain {program}: " + " ".join(str(error).split())
    if key:
        given = next((o.split("=", 1)[1] for o in reversed(overrides) if o.lstrip("+").startswith(f"{key}=")), None)
        value = f"={given}" if given is not None else ""
        if "Incompatible value 'None'" in first:
            first = "need a value"
        if "is not a valid bool" in first:
            first = f"need {NEEDS['Boolean']}"
        if "Invalid type assigned" in first:
            first = f"need keys of its own, like {key}.KEY=VALUE"
        if "is not a ListConfig" in first:
            first = "need a list, like [a,b]"
        first = re.sub(
            r"Value '.*' of type '\w+' could not be converted to (\w+)",
            lambda m: f"need {NEEDS.get(m[1], m[1])}",
            first,
        )
        return f"{key}{value}: {first}"
    return f"llamatrain {program}: {first}"


def _culprit(program: str, overrides: Sequence[str]) -> str | None:
    """Return the override at which Hydra stumbles by itself."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for override in reversed(overrides):  # the user's own come last
            try:
                hydra_compose(yaml_name(program), overrides=[override])
            except Exception:
                return override
    return None


def _same_leaf(name: str, known: list[str]) -> list[str]:
    leaf = name.split(".")[-1]
    leaves = {k.split(".")[-1]: k for k in known}
    return [leaves[n] for n in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.8)]


def _known_keys(program: str, schema: type | None) -> list[str]:
    keys: list[str] = []

    def visit(node: Any, prefix: str) -> None:
        for name, value in node.items():
            keys.append(f"{prefix}{name}")
            if isinstance(value, dict):
                visit(value, f"{prefix}{name}.")

    visit(compose_dict(program), "")
    if schema is not None:
        keys.extend(f.name for f in fields(cast(Any, schema)) if f.name not in keys)
    return keys


# --- the command line --------------------------------------------------------------------------------------------


Plan = Callable[[C, int | None], str]  # of a configuration and a number of ranks (None: not said)


def main(
    program: str,
    schema: type[C],
    task: Callable[[C], None],
    argv: Sequence[str] | None = None,
    plan: Plan[C] | None = None,
) -> None:
    """Run a program: compose its configuration from the command line and call the task; never returns.

    A program with a `plan` prints it for `--dry-run[=RANKS]` and does nothing else. `argv` stands for the command line.
    Exit codes: 0 done, 1 failure, 2 the user's mistake, 75 stopped by a signal, saved and resumable.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    streams.replace_unknown_characters()
    alone = argv is None  # the process ends with the program
    code = _guarded(lambda: _dispatch(program, schema, task, arguments, plan), leaves=alone)
    if alone:
        atexit.register(_end, code)
    sys.exit(code)


def _end(code: int) -> None:
    """End the process as exit functions begin: run the others, flush, and leave out the interpreter's finalization.

    gloo's threads give tensors back under Python's lock, at a time of their own. CPython below 3.14 ends a thread that
    waits for the lock when finalization begins; in the middle of a destructor that aborts the process with exit code 134,
    after the run is done. DeepSpeed's hooks keep process groups alive, so that these threads outlive their destruction.
    Nothing is lost: threads are joined before exit functions run, and what finalization would still do is free memory.
    """
    atexit.unregister(_end)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _guarded(body: Callable[[], int], leaves: bool) -> int:
    try:
        code = body()
        if leaves:
            distributed.leave()  # after success alone: where a rank failed the others would wait for it
        sys.stdout.flush()  # here, where a reader who has seen enough is no failure
        return code
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"stopped: {stop}", file=sys.stderr)
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    except Exception as error:
        said = mistake(error)
        if said is not None:
            if os.environ.get("LLAMATRAIN_VERBOSE") == "1":
                traceback.print_exc()
            if _first_here():
                print(f"error: {said}", file=sys.stderr)
            return EXIT_USER
        if any(sign in str(error) for sign in LOST_PEER):  # what happened is told there
            print(f"rank {os.environ.get('RANK', '0')}: another rank has ended; so does this one", file=sys.stderr)
        else:
            traceback.print_exc()
        return EXIT_FAILURE


def _first_here() -> bool:
    """Tell whether this rank speaks for its machine: one message each, as a file may be missing on one of them alone."""
    env = os.environ
    own = env.get("LOCAL_RANK", env.get("RANK", env.get("SLURM_LOCALID", "0")))
    world = env.get("WORLD_SIZE", env.get("SLURM_STEP_NUM_TASKS", "1"))
    if own.isdigit() and world.isdigit() and int(own) < int(world):
        return own == "0"
    return True  # the mistake may be the number itself


def _dispatch(
    program: str, schema: type[C], task: Callable[[C], None], arguments: list[str], plan: Plan[C] | None
) -> int:
    if any(a in ("--help", "-h") for a in arguments):
        print(help_text(program, task, plan is not None))
        return 0
    show = any(pair == ("--cfg", "job") for pair in itertools.pairwise(arguments))
    if show:
        arguments = [a for a in arguments if a not in ("--cfg", "job")]
    # The deepspeed launcher adds --local_rank=N, which the environment says as well.
    flags = [a for a in arguments if a.startswith("-") and not a.startswith("--local_rank")]
    overrides = [a for a in arguments if not a.startswith("-")]
    if show and not flags:
        values = compose_dict(program, overrides)
        typed = _typed(program, schema, values, overrides)
        with _explained(program, overrides, schema):
            if not OmegaConf.missing_keys(typed):
                check(program, schema, values, overrides)  # for the checks between keys
            print(OmegaConf.to_yaml(typed, resolve=True), end="")
        return 0
    if flags in (["--multirun"], ["-m"]):
        return _multirun(program, overrides)
    if plan is not None:  # `dry_run=true`, as a pipeline has it, means the same
        flags += [DRY_RUN for o in overrides if o.lower() == "dry_run=true"]
        overrides = [o for o in overrides if o.lower() not in ("dry_run=true", "dry_run=false")]
    if plan is not None and len(flags) == 1 and flags[0].partition("=")[0] == DRY_RUN:
        ranks = _ranks(flags[0])
        text = plan(compose(program, schema, overrides, fill=True), ranks)
        if os.environ.get("RANK", "0") == "0":
            print(text)
        return 0
    if len(flags) == 1 and flags[0].startswith(f"{FROM_FILE}=") and not overrides:
        task(check(program, schema, read_settings(Path(flags[0].partition("=")[2]))))
        return 0
    if flags:
        dry = f", {DRY_RUN}[=RANKS]" if plan is not None else ""
        raise UserError(f"unknown option {flags[0]}: there are --help, --cfg job{dry} and --multirun")
    stray = [o for o in overrides if "=" not in o and not o.startswith("~")]
    if stray:
        raise UserError(f"'{stray[0]}' is not an override: need key=value (see `llamatrain {program} --help`)")
    config = compose(program, schema, overrides)
    task(config)
    return 0


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Write composed values to a file that `<program> --config=FILE` starts from."""
    atomic.write_text(path, yaml.safe_dump(dict(values), sort_keys=False))


def read_settings(path: Path) -> dict[str, Any]:
    """Return what `write_settings` wrote."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{FROM_FILE}={path}: found {show(values)}, need key: value")
    return values


def _ranks(flag: str) -> int | None:
    given = flag.partition("=")[2]
    if "=" in flag and not (given.isascii() and given.isdigit() and int(given) > 0):
        raise UserError(f"{flag}: need a number of ranks, like {DRY_RUN}=64")
    return int(given) if given else None


def _multirun(program: str, overrides: list[str]) -> int:
    """Run the product of all comma-separated values, one process and one run folder each."""
    parsed: list[Override] = OverridesParser.create().parse_overrides(overrides)
    choices: list[list[str]] = []
    swept: list[bool] = []
    for override in parsed:
        if override.is_sweep_override():
            choices.append([f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
        swept.append(override.is_sweep_override())
    if not any(swept):
        raise UserError("--multirun needs at least one key with several values, like optim.lr=1e-4,3e-4")
    base = compose_dict(program, [c[0] for c in choices]).get("run", {}).get("name")
    if base in (None, "???"):
        raise UserError("--multirun needs run.name: every job gets a folder of its own below it")
    jobs = list(itertools.product(*choices))
    failure = 0
    for number, job in enumerate(jobs):
        varied = [value for value, is_swept in zip(job, swept, strict=True) if is_swept]
        label = re.sub(r"[^A-Za-z0-9=.,+-]+", "_", ",".join(varied))
        named = any(value.startswith("run.name=") for value in varied)
        name = [] if named else [f"run.name={_quoted(f'{base}/{number}_{label}')}"]
        print(f"job {number + 1} of {len(jobs)}: {' '.join(varied)}", flush=True)
        main_module = sys.modules["__main__"].__spec__
        assert main_module is not None, "programs are started with python -m"
        command = [sys.executable, "-m", main_module.name.removesuffix(".__main__"), *job, *name]
        code = _run(command)
        if code == EXIT_STOPPED or code < 0:
            return code if code > 0 else EXIT_FAILURE
        failure = failure or code
    return failure


def _run(command: Sequence[str]) -> int:
    """Run a job; a signal is passed on, once: it is a process group of its own, which Ctrl-C on a terminal does not reach."""
    job = subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL)
    with handling(lambda number, _: job.send_signal(number)):
        return job.wait()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def help_text(program: str, task: Callable[..., None], plans: bool = False) -> str:
    """Return a program's help: what it does, its config groups, and its keys as the commented YAML."""
    folder = config_folder()
    about = (sys.modules[task.__module__].__doc__ or "").strip()
    source = read_text(folder / f"{yaml_name(program)}.yaml")
    used = re.findall(r"^\s+- (?:/)?([\w/]+)(?:@(\S+?))?: *(\S+)", source.split("_self_")[0], re.M)
    lines = [about, "", f"Usage: llamatrain {program} [preset=NAME] [key=value ...]", ""]
    sweep = "   --multirun (a,b: one run for each value)" if any(group == "run" for group, _, _ in used) else ""
    dry = f"   dry_run=true or {DRY_RUN}[=RANKS] (print the plan, for so many ranks)" if plans else ""
    lines += [f"Options: --help   --cfg job (print the composed configuration){dry}{sweep}"]
    key = "stages" if program == "pipeline" else yaml_name(program)
    presets = sorted(p.stem for p in (folder / "preset").glob("*.yaml") if key in load_preset(p.stem))
    if presets:
        lines += ["", f"Presets: {', '.join(presets)}"]
    if used:
        lines += ["", "Config groups (group=choice; the default is marked):"]
        for group, package, default in used:
            names = sorted(p.stem for p in (folder / group).glob("*.yaml"))
            shown = ", ".join(f"{n}*" if n == default else n for n in names)
            lines.append(f"  {f'{group}@{package}' if package else group:<12} {shown}")
    lines += ["", "Keys:"]
    for group, package, default in used:
        path = folder / group / f"{default}.yaml"
        if path.is_file():
            values = OmegaConf.to_yaml(OmegaConf.create(compose_dict(program).get(package or group, {})))
            comments = _comments([path, *sorted((folder / group).glob("*.yaml"))])
            lines.append(f"  {package or group}:")
            lines += [f"    {_annotated(line, comments)}" for line in values.splitlines()]
    body = re.sub(r"(?ms)^defaults:.*?^(?=\S)(?<!defaults:)", "", source)
    lines += [f"  {line}".rstrip() for line in body.strip().splitlines()]
    return "\n".join(lines)


def _comments(paths: list[Path]) -> dict[str, str]:
    """Return key -> comment over the files of a group, the first one's first."""
    found: dict[str, str] = {}
    for path in paths:
        for line in read_text(path).splitlines():
            match = re.match(r"\s*(\w+):[^#]*#\s*(.*)", line)
            if match:
                found.setdefault(match[1], match[2])
    return found


def _annotated(line: str, comments: dict[str, str]) -> str:
    key = line.strip().split(":")[0]
    return f"{line:<34} # {comments[key]}" if key in comments else line
