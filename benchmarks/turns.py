"""Sides that take turns: processes of their own, one thread each, that take steps when asked and say what these took.

A line on a side's standard input asks for so many steps; a line of JSON answers with the `seconds` they took. The machine
drifts, so a ratio is of the rates of one round. Imports the standard library alone: a side may have an environment of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretraining_speed import quartiles
from recorded import ROOT, add

Answer = dict[str, Any]  # what a side says of its steps: how many (`steps`), their `seconds`, and what else it knows


# --- between the sides -------------------------------------------------------------------------------------------


def alternated(
    commands: dict[str, list[str]],
    folder: Path,
    asked: tuple[int, int, int],
    rate: Callable[[Answer], float],
) -> dict[str, list[Answer]]:
    """Return each side's answers, one a round; `asked` are the rounds, the steps of each, and those to warm up with.

    `rate` is how fast an answer was, to be printed. What a side says on standard error lands in a log in the folder.
    """
    rounds, steps, warm_up = asked
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": env}
    sides = {}
    for name, command in commands.items():  # one after the other, so that none warms up while another does
        with (folder / f"{name}.log").open("w") as log:
            sides[name] = subprocess.Popen(command, stderr=log, **pipes)  # type: ignore[call-overload]
        print(f"{name}: {rate(answer(sides[name], warm_up, folder)):,.1f} in its first steps", flush=True)
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            answers[name].append(answer(sides[name], steps, folder))
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {rate(answers[name][-1]):,.1f}" for name in names), flush=True
        )
    for side in sides.values():
        side.stdin.close()  # a side of several ranks ends by itself: a kill would reach its launcher alone
        try:
            side.wait(30)
        except subprocess.TimeoutExpired:
            side.kill()
            side.wait()
    return answers


def answer(side: Any, steps: int, folder: Path) -> Answer:
    """Let a side take some steps; return what it says of them."""
    side.stdin.write(f"{steps}\n")
    side.stdin.flush()
    for line in side.stdout:
        if line.startswith('{"'):  # a trainer may print a dictionary of Python's
            return {"steps": steps, **json.loads(line)}
    raise SystemExit("a side ended: " + "".join(log.read_text()[-2000:] for log in folder.glob("*.log")))


def record(study: str, about: dict[str, Any], heading: str, rates: dict[str, list[float]]) -> None:
    """Append a line with the rates and the first side's ratios to the others, and print them as a table."""
    ours, *others = rates
    ratios = {name: quartiles(rates[ours], rates[name]) for name in others}
    speeds = {name: [round(one, 1) for one in values] for name, values in rates.items()}
    add(study, {**about, "per_second": speeds, "ours_over_it": ratios})
    print(f"| {heading}, median | {ours} over it |\n|---|---|---|")
    for name, values in rates.items():
        told = "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratios[name]) if name in ratios else ""
        print(f"| {name} | {statistics.median(values):,.1f} | {told} |")


# --- within a side -----------------------------------------------------------------------------------------------


class Turns:
    """Waits to be asked before a step, and answers after the last one. `clock` gives seconds, by default of processor time.

    `ask` returns the next line of standard input; where several ranks take the steps together, all call alike and one `tells`.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.process_time,
        ask: Callable[[], str] = sys.stdin.readline,
        tells: bool = True,
    ) -> None:
        self.clock, self.ask, self.tells = clock, ask, tells
        self.left, self.started, self.parts = 0, 0.0, dict[str, float]()

    def begin(self) -> None:
        """Wait to be asked, where no step is left to take; leave where nothing will be asked any more."""
        if not self.left:
            line = self.ask()
            if not line:
                raise SystemExit
            self.left, self.started, self.parts = int(line), self.clock(), {}

    def end(self) -> None:
        """Note that a step is done; answer after the last one."""
        self.left -= 1
        if not self.left and self.tells:
            parts = {"parts": self.parts} if self.parts else {}
            print(json.dumps({"seconds": self.clock() - self.started, **parts}), flush=True)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as a part of its step: the answer tells its seconds."""
        started = self.clock()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + self.clock() - started
