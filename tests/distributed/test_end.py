"""The end of a process on several ranks: gloo's threads cannot abort it, however late they give their tensors back.

A library that is loaded first lets gloo's worker threads pause where they have told the main thread that their work is
done, until the interpreter is about to finalize: by itself that is a matter of luck, and of a busy machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.processes import _environments

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PAUSE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int pthread_cond_broadcast(pthread_cond_t *condition) {
  int (*broadcast)(pthread_cond_t *) = dlsym(RTLD_NEXT, "pthread_cond_broadcast");
  int result = broadcast(condition);
  char name[32] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  if (getenv("PAUSE") && strstr(name, "pt_gloo"))
    for (int i = 0; i < 1500 && !getenv("FINALIZING"); i++) usleep(1000);
  return result;
}
"""
# Exit functions run last first; these two are C functions that keep Python's lock, like the interpreter's finalization.
PROGRAM = """
import atexit, ctypes, os, sys
python = ctypes.PyDLL(None)
atexit.register(python.usleep, 300000)
atexit.register(python.setenv, b"FINALIZING", b"1", 1)
import torch.distributed
from llamatrain import distributed
from llamatrain.config import program

groups = []  # as DeepSpeed's hooks keep them

def work(*_):
    distributed.setup()
    groups.append(torch.distributed.group.WORLD)
    os.environ["PAUSE"] = "1"
    distributed.gather_objects("done")
    return 0

program._dispatch = work
if sys.argv[1] == "finalizes":
    program._end = lambda code: None
program.main("program", dict, work)
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize(("end", "code"), [("finalizes", -6), ("ends before", 0)])
def test_a_late_thread_of_gloos(end: str, code: int, tmp_path: Path, repository: Path) -> None:
    (tmp_path / "pause.c").write_text(PAUSE)
    library = tmp_path / "pause.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "pause.c", "-ldl"], check=True)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, end],
            cwd=repository,
            env={**environ, "LD_PRELOAD": str(library)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for environ in _environments(2)
    ]
    said = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [code, code], said
    assert all(("terminate called without an active exception" in text) == (code != 0) for text in said)
