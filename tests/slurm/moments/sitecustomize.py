"""Stops a process at a moment that a test names, so that a fault strikes it there: python imports this by its name.

With MOMENT=<file> each process looks there as it starts: {"function": "rlhf.learning:accumulate", "nth": 2} stops a rank
(SIGSTOP) as it calls that function for the second time, and says so in <file>.<rank>. At SIGUSR2 a rank writes to
<file>.<rank>.<pid>, as its node numbers it, where it stands. Programs know nothing of it.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib.machinery
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class _Watch:
    """A finder that finds what the others do, and lets the function of one module stop the process."""

    module, attribute, nth = "", "", 0

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of that module; leave the rest to others."""
        if name != cls.module:
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not cls)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = functools.partial(cls.execute, execute)  # type: ignore[method-assign]
        return spec

    @classmethod
    def execute(cls, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Run the module, then put a function in the place of its own that counts."""
        execute(module)
        *owners, name = cls.attribute.split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        function, calls = getattr(owner, name), 0

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == cls.nth:
                Path(f"{os.environ['MOMENT']}.{os.environ['SLURM_PROCID']}").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGSTOP)
            return function(*args, **kwargs)

        setattr(owner, name, counted)


def main(path: Path) -> None:
    """Say at SIGUSR2 where this rank stands; watch for the moment, where there is one."""
    told = Path(f"{path}.{os.environ['SLURM_PROCID']}.{os.getpid()}").open("w")  # noqa: SIM115
    faulthandler.register(signal.SIGUSR2, file=told, all_threads=True)
    if path.exists():
        moment = json.loads(path.read_text())
        _Watch.module, _, _Watch.attribute = moment["function"].partition(":")
        _Watch.nth = moment["nth"]
        sys.meta_path.insert(0, _Watch)


if os.environ.get("MOMENT") and "SLURM_PROCID" in os.environ:
    main(Path(os.environ["MOMENT"]))
