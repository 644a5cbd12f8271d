"""Tells where a stage's program stands, from outside: python imports this by its name where the folder is on PYTHONPATH.

With PLACES=<folder> each rank writes to <folder>/<pid>, two hundred times a second, what heartbeat.py knows of it, for files
that show ranks to one another come seconds apart and not from a single rank. Programs know nothing of it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

SAMPLES = {"generate": "act", "score": "judge"}  # of programs that name no phases for these


def tell(module: str, stage: str, path: Path) -> None:
    """Write it down until the process ends; before the program is there, it starts."""
    place = {"program": module, "stage": stage, "step": 0, "phase": "start", "doing": "start"}
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    while True:
        here = getattr(sys.modules.get("llamatrain.heartbeat"), "here", None)
        if here is not None:
            phase = SAMPLES.get(here.doing, "start") if here.phase == "start" else here.phase
            if any(thread.name == "checkpoint" for thread in threading.enumerate()):
                phase = "save"  # whatever the training thread does beside it
            place |= {"step": here.step, "phase": phase, "doing": here.doing}
        os.pwrite(file, f"{json.dumps(place):<255}\n".encode(), 0)
        time.sleep(0.005)


config = next((word for word in sys.orig_argv if word.startswith("--config=")), "")
if config and "PLACES" in os.environ:
    known = (sys.orig_argv[sys.orig_argv.index("-m") + 1], Path(config).parent.name)
    path = Path(os.environ["PLACES"], str(os.getpid()))
    threading.Thread(target=tell, args=(*known, path), name="place", daemon=True).start()
