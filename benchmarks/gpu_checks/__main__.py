"""A check's process: `python benchmarks/gpu_checks NAME ...` prints a line of JSON for each figure, on rank 0."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout
sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    """Run the check that the command line names."""
    import torch

    from llamatrain import distributed

    name, *arguments = sys.argv[1:]
    if name == "about":
        count = torch.cuda.device_count()
        device = torch.cuda.get_device_name() if count else "no GPU: the CPU alone"
        print(json.dumps({"device": device, "count": count, "torch": torch.__version__, "cuda": torch.version.cuda}))
        return
    distributed.setup()
    for row in importlib.import_module(name).check(*arguments):
        if distributed.is_main():
            print(json.dumps(row), flush=True)
    distributed.leave()


if __name__ == "__main__":
    main()
