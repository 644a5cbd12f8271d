"""`python -m llamatrain <program> ...`: the command line, from a checkout as well as installed."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    nested = (here / "launch").is_dir()  # as a wheel has it; in a checkout the packages lie side by side
    if not nested:
        sys.path.insert(0, str(here.parent))
    runpy.run_module("llamatrain.launch" if nested else "launch", run_name="__main__", alter_sys=True)
