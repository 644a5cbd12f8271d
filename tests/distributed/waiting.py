"""Two ranks that wait for each other and look at their hosts, in one launch; the argument is a folder. Prints `ok <check>`."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from llamatrain import distributed, preflight
from llamatrain.errors import BadNodeError

SECONDS = 10  # until a collective of a step times out


def check_patience() -> None:
    """What ranks agree on between steps waits for the slowest, for longer than a step's collective may take."""
    if not distributed.is_main():
        time.sleep(1.5 * SECONDS)
    assert distributed.any_rank(distributed.rank() == 1)
    assert distributed.gather_objects(distributed.rank()) == [0, 1]
    say("patience")


def check_preflight(folder: Path) -> None:
    """Both ranks share a host, whose figures are real ones; then it is held against a need that it cannot meet."""
    said: list[str] = []
    preflight.check(folder, said.append)
    assert len(said) == 1 and said[0].startswith("preflight: 2 ranks on 1 host in ")
    assert not list(folder.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(preflight.LINK_SPEED, "cpu", 1e15)
        with pytest.raises(
            BadNodeError, match=r"bad node: .* \(rank 0\): link .*/s, need 1,000,000.0 GB/s or more; .*"
        ):
            preflight.check(folder, said.append)
    (host,) = {report.host for report in preflight.look(folder)}
    assert (folder / preflight.LIST).read_text() == f"{host}\n"
    say("preflight")


def check_timeout() -> None:
    """The control: a step's collective does time out. Nothing works after it."""
    if distributed.is_main():
        with pytest.raises(RuntimeError):
            distributed.all_reduce_sum(1.0)
        print("ok timeout", flush=True)
    else:
        time.sleep(2 * SECONDS)


def say(check: str) -> None:
    distributed.barrier()
    if distributed.is_main():
        print(f"ok {check}", flush=True)


def main() -> None:
    """Run all checks."""
    distributed.TIMEOUT = timedelta(seconds=SECONDS)
    distributed.setup()
    check_patience()
    check_preflight(Path(sys.argv[1]))
    check_timeout()
    sys.stdout.flush()
    os._exit(0)  # the process group is broken


if __name__ == "__main__":
    main()
