"""The one entry of every program: its command line, its exit codes, and how its process ends.

`main(program, schema, task)` composes configs/<program>.yaml with the command line, holds the result against the
program's dataclass and runs the task.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from llamatrain import streams
from llamatrain.config.compose import check, compose, compose_dict, read_settings, typed
from llamatrain.config.explain import explained
from llamatrain.config.help import DRY_RUN, help_text
from llamatrain.config.options import FROM_FILE, asks, divided
from llamatrain.errors import UserError
from llamatrain.exits import EXIT_FAILURE, guarded
from llamatrain.settings import RunConfig
from llamatrain.stopping import EXIT_STOPPED, handling
from llamatrain.watch import early

C = TypeVar("C")

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
    code = guarded(lambda: _dispatch(program, schema, task, arguments, plan), leaves=alone)
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


def tell(program: str, schema: type, arguments: Sequence[str], about: str, plans: bool, parallel: bool) -> None:
    """Print what a command line asks for (`options.asks`) and end the process; `about` says what the program does."""
    streams.replace_unknown_characters()

    def body() -> int:
        print(_text(program, schema, arguments, about, plans, parallel))
        return 0

    sys.exit(guarded(body, leaves=False))


def _text(program: str, schema: type, arguments: Sequence[str], about: str, plans: bool, parallel: bool = False) -> str:
    """Return the help, or for `--cfg job` the composed configuration, checked as far as all values are there."""
    if any(a in ("--help", "-h") for a in arguments):
        return help_text(program, about, plans, parallel)
    rest = [a for a in arguments if a not in ("--cfg", "job")]
    overrides, flags = divided(rest)
    if flags:
        raise _unknown(flags[0], plans)
    _refuse_stray(program, overrides)
    values = compose_dict(program, overrides, schema)
    shown = typed(program, schema, values, overrides)
    with explained(program, overrides, schema):
        if not OmegaConf.missing_keys(shown):
            check(program, schema, values, overrides)  # for the checks between keys
        return re.sub(r"^(\w+)_:", r"\1:", OmegaConf.to_yaml(shown, resolve=True).rstrip(), flags=re.M)


def _unknown(option: str, plans: bool) -> UserError:
    dry = f", {DRY_RUN}[=RANKS]" if plans else ""
    return UserError(f"unknown option {option}: there are --help, --cfg job{dry} and --multirun")


def _refuse_stray(program: str, overrides: Sequence[str]) -> None:
    stray = [o for o in overrides if "=" not in o and not o.startswith("~")]
    if stray:
        raise UserError(f"'{stray[0]}' is not an override: need key=value (see `llamatrain {program} --help`)")


def _dispatch(
    program: str, schema: type[C], task: Callable[[C], None], arguments: list[str], plan: Plan[C] | None
) -> int:
    if asks(arguments):
        print(_text(program, schema, arguments, sys.modules[task.__module__].__doc__ or "", plan is not None))
        return 0
    overrides, flags = divided(arguments)
    if flags in (["--multirun"], ["-m"]):
        return _multirun(program, overrides)
    # What stays is refused below: an option that is unknown, given twice, or beside a whole configuration.
    if plan is not None:  # `dry_run=true`, as a pipeline has it, means the same
        flags += [DRY_RUN for o in overrides if o.lower() == "dry_run=true"]
        overrides = [o for o in overrides if o.lower() not in ("dry_run=true", "dry_run=false")]
    whole = [flag for flag in flags if flag.startswith(f"{FROM_FILE}=") and not overrides]
    dry = [flag for flag in flags if plan is not None and flag.partition("=")[0] == DRY_RUN]
    if len(whole) < 2 and len(dry) < 2 and flags and len(flags) == len(whole) + len(dry):
        if whole:  # written by a pipeline from composed values: only the checks are left to do
            config = check(program, schema, read_settings(Path(whole[0].partition("=")[2])))
        else:
            config = compose(program, schema, overrides, fill=True)
        if plan is None or not dry:
            _start(task, config)
            return 0
        text = plan(config, _ranks(dry[0]))
        if os.environ.get("RANK", "0") == "0":
            print(text)
        return 0
    if flags:
        raise _unknown(flags[0], plan is not None)
    _refuse_stray(program, overrides)
    config = compose(program, schema, overrides)
    _start(task, config)
    return 0


def _start(task: Callable[[C], None], config: C) -> None:
    from llamatrain.inputs import check_there  # here, because help has no use for what reads data

    run = getattr(config, "run", None)
    with early(Path(run.dir) / run.name, run.hang_minutes) if isinstance(run, RunConfig) else nullcontext():
        check_there(config)
        task(config)


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
        raise UserError("--multirun: need at least one key with several values, like optim.lr=1e-4,3e-4")
    base = compose_dict(program, [c[0] for c in choices]).get("run", {}).get("name")  # of the first job, as of all
    if base in (None, "???"):
        raise UserError("--multirun: need run.name, as every job gets its own folder below it")
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
        # A job that fails leaves the others their turn; a signal is meant for all of them.
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
