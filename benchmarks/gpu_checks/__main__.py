"""A process of checks: `python benchmarks/gpu_checks parity,float32 kernels` prints a line of JSON for each figure, on rank 0.

After a check's figures a line says its seconds.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout
sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    """Run the checks that the command line names, each a module and its arguments."""
    import torch

    from llamatrain import distributed

    if sys.argv[1:] == ["about"]:
        count = torch.cuda.device_count()
        device = torch.cuda.get_device_name() if count else "no GPU: the CPU alone"
        print(json.dumps({"device": device, "count": count, "torch": torch.__version__, "cuda": torch.version.cuda}))
        return
    distributed.setup()
    for given in sys.argv[1:]:
        started = time.perf_counter()
        try:
            for row in rows(given):
                if distributed.is_main():
                    told(**row)
        except Exception as error:  # any: the others go on, and a GPU's owner is to see what it was
            words = (str(error).strip().splitlines() or [""])[0]
            told(what="failed", value=f"{type(error).__name__}: {words}"[:300], need="", ok=False)
            if distributed.world_size() > 1:  # the other ranks would wait for this one
                raise
        if distributed.is_main():
            told(seconds=round(time.perf_counter() - started, 1))
    distributed.leave()


def rows(given: str) -> Any:
    """Return an iterator over the figures of a check."""
    name, *arguments = given.split(",")
    return importlib.import_module(name).check(*arguments)


def told(**row: Any) -> None:
    """Print a line."""
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
