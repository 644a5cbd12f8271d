"""`llamatrain <program> [overrides]`: lists the programs and becomes the one that was asked for.

Imports nothing heavy, so that help comes at once. The program replaces this process: its exit code is ours, and a signal
reaches it once. One that is as light as this runs in it, and for `ranks=N` it starts so many processes, as a pipeline does.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from llamatrain.config.options import asks
from llamatrain.errors import UserError
from llamatrain.exits import EXIT_USER
from llamatrain.streams import open_closed

from .programs import (
    NAME,
    OWN,
    PREFIX,
    PROGRAMS,
    ROOT,
    command,
    environment,
    find,
    missing_packages,
    nearest,
    with_keys,
)
from .ranks import launched

EXAMPLES = {
    "pipeline preset=demo": "the full pipeline on a laptop",
    "sft preset=demo optim.lr=1e-3": "one program, one key changed",
    "sft --cfg job": "print the configuration and exit",
    "runs": "what lies in runs/, and what comes next",
    "chat runs/demo/sft runs/demo/ppo": "two models, side by side",
}


def usage(colour: bool) -> str:
    """Return the help text, as wide as the terminal: every program, by group, and examples."""
    columns = shutil.get_terminal_size((100, 24)).columns

    def paint(code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if colour else text

    def beside(start: str, text: str, painted: str) -> list[str]:
        """Return the lines of a text beside its start, which is shown as `painted`."""
        rows = textwrap.wrap(text, max(24, columns - len(start)), break_on_hyphens=False)
        return [f"{painted}{rows[0]}", *(" " * len(start) + row for row in rows[1:])]

    lines = [
        "",
        f"  {paint('1', 'llamatrain')}  {paint('2', 'from raw text to a helpful and safe assistant, the Llama 2 way')}",
        "",
        f"  {NAME} {paint('36', '<program>')} {paint('2', '[preset=NAME] [key=value ...]')}",
    ]
    width = max(map(len, PROGRAMS)) + 2
    group = ""
    for name, program in PROGRAMS.items():
        if program.group != group:
            group = program.group
            lines += ["", f"  {paint('1', group)}"]
        start = name.ljust(width)
        lines += beside(f"    {start}", program.summary, f"    {paint('36', start)}")
    lines += ["", f"  {paint('1', 'Examples')}"]
    width = max(map(len, EXAMPLES)) + 2
    for example, what in EXAMPLES.items():
        start = f"    {NAME} {example.ljust(width)}"
        lines += beside(start, what, start)
    lines += ["", f"  {paint('2', f'{NAME} <program> --help lists the keys of a program.')}", ""]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Become the program named by the first argument; without one, print the help."""
    open_closed()
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) > 1 and arguments[0] == "help":  # `help sft` is `sft --help`
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _say(usage(colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
        return
    if arguments[0] in ("-V", "--version", "version"):
        from llamatrain import __version__

        _say(f"llamatrain {__version__}")
        return
    name, *rest = arguments
    if rest and find(f"{name}.{rest[0]}"):  # `corpus verify` is corpus.verify
        name, *rest = f"{name}.{rest[0]}", *rest[1:]
    program = find(name)
    if program is None:
        hint = nearest(name, list(PROGRAMS))
        print(f"{NAME}: there is no program '{name}'{hint}  ({NAME} --help lists them)", file=sys.stderr)
        raise SystemExit(EXIT_USER)
    lacking = missing_packages()
    if lacking:
        print(f"{NAME}: {how_to_install(lacking)}", file=sys.stderr)
        raise SystemExit(EXIT_USER)
    if PROGRAMS[program].light:
        importlib.import_module(PREFIX + PROGRAMS[program].module).main(rest)
        return
    try:
        ranks, rest = ranks_asked(program, rest)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USER) from None
    if program not in OWN:  # which do so themselves
        rest = with_keys(program, rest)
    start = [*command(PROGRAMS[program].module), *rest]
    sys.stdout.flush()
    if ranks > 1:
        from .processes import Processes  # most have no use for it

        with Processes() as processes:
            raise SystemExit(processes.run(start, ranks))
    os.execve(start[0], start, environment())


def ranks_asked(program: str, arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Return on how many processes of this machine a program is to run (`ranks=N`), and its other arguments.

    A pipeline has that key itself, for its stages. UserError where the program or what else was typed does not allow it.
    """
    given = [argument for argument in arguments if argument.startswith("ranks=")]
    rest = [argument for argument in arguments if argument not in given]
    if not given or program == "pipeline":
        return 1, list(arguments)
    number = given[-1].removeprefix("ranks=")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise UserError(f"{given[-1]}: need a whole number, 1 or more")
    if not PROGRAMS[program].parallel:
        able = ", ".join(name for name, known in PROGRAMS.items() if known.parallel)
        raise UserError(f"{given[-1]}: {program} does not share its work among ranks; those that do are {able}")
    among = launched()
    if among is not None:
        raise UserError(f"{given[-1]}: a launcher started this as rank {among.rank} of {among.count}; leave ranks out")
    if {"--multirun", "-m"} & set(rest):
        raise UserError(f"{given[-1]}: --multirun starts one process for each value; leave ranks out")
    return 1 if asks(rest) else int(number), rest


def how_to_install(lacking: list[str]) -> str:
    """Return in a line which packages this interpreter lacks and what mends it."""
    has = f"{sys.executable} has no {', '.join(lacking)}"
    if (ROOT / ".venv/bin/llamatrain").exists() and Path(sys.prefix) != ROOT / ".venv":
        return f"{has}: `source {ROOT / '.venv/bin/activate'}` first"
    constraints, source = ROOT / "constraints.txt", ROOT / "setup.py"
    what = f"-c {constraints} -e {ROOT}" if source.exists() else " ".join(lacking)
    return f"{has}: install with `{sys.executable} -m pip install {what}`"


def _say(text: str) -> None:
    """Print, and care not if the reader has seen enough (`llamatrain --help | head`)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
