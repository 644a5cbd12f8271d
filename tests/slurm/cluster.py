"""A real Slurm of virtual nodes on this machine, as tests and benchmarks start it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LAB = Path(__file__).with_name("lab.sh")
ROOT = LAB.parents[2]
MOMENTS = LAB.with_name("moments")  # on PYTHONPATH: a sitecustomize that stops ranks where a test wants it
NAMESPACES = ("--uts", "--mount", "--pid", "--fork", "--mount-proc")  # of a node, as lab.sh makes it
PATIENCE = 1500  # seconds that anything may take on a busy machine before it counts as hung


@dataclass(frozen=True)
class Lab:
    """The cluster, and how it is asked."""

    folder: Path
    environ: dict[str, str]

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm's says; a question is put again where a busy controller gives no answer."""
        asks = command[0] in ("squeue", "sinfo") or command[:2] == ("scontrol", "show")
        for left in reversed(range(10 if asks else 1)):
            done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=120)
            if done.returncode == 0 or not left:
                break
            time.sleep(1)
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
        return done.stdout

    def llamatrain(self, *arguments: str, code: int = 0) -> str:
        """Call llamatrain as a user does on a login node; return what it says, and hold its exit code."""
        command = [sys.executable, "-m", "launch", *arguments]
        done = subprocess.run(command, env=self.environ, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == code, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def until(self, what: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, self.ask("squeue")
            time.sleep(0.2)

    def node(self, what: str, *arguments: object) -> None:
        """Switch a node off or on, or spoil it, as lab.sh says."""
        command = [str(LAB), what, str(self.folder), *map(str, arguments)]
        log = self.folder / "nodes.log"
        with log.open("a") as file:  # a node keeps the streams: a pipe would never end
            subprocess.run(command, env=self.environ, check=True, stdout=file, stderr=file, timeout=60)

    def until_empty(self) -> None:
        """Wait until no job waits or runs."""
        self.until(lambda: not self.ask("squeue", "--noheader"))


def why_not() -> str:
    """Return why Slurm cannot run here, installing it where that may be; empty where it can."""
    if os.geteuid() != 0:
        return "virtual nodes need root"
    if not all(shutil.which(tool) for tool in ("slurmctld", "slurmd", "munged", "sbatch")):
        if shutil.which("apt-get") is None:
            return "Slurm is not installed, and there is no apt-get to install it with"
        done = subprocess.run([str(LAB), "install"], capture_output=True, text=True, timeout=600)
        if done.returncode:
            return f"Slurm is not installed, and apt-get cannot install it: {last_line(done.stderr)}"
    done = subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True, text=True, timeout=60)
    return f"virtual nodes need namespaces of their own: {last_line(done.stderr)}" if done.returncode else ""


def last_line(text: str) -> str:
    """Return the last line of what a command said."""
    return (text.strip().splitlines() or ["it says nothing"])[-1]


@contextmanager
def started(nodes: int, disk: int = 0) -> Iterator[Lab]:
    """Run a cluster of so many nodes, with a disk of so many megabytes that can be filled (`Lab.folder / "disk"`)."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # not pytest's: a socket's path has a limit
    environ = {**os.environ, "LAB_ID": str(_free_number()), "WANDB_MODE": "disabled"}
    environ |= {"LAB_DISK": str(disk)} if disk else {}
    environ |= {"PYTHONPATH": f"{ROOT}:{MOMENTS}", "MOMENT": str(folder / "moment")}
    code = _start(folder, environ, nodes)
    if code:  # network namespaces may be forbidden: all nodes on one address then
        environ["LAB_NET"] = "0"
        code = _start(folder, environ, nodes)
    assert code == 0, (folder / "start.log").read_text()
    for line in (folder / "env").read_text().splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        environ[name] = value
    try:
        yield Lab(folder, environ)
    finally:
        subprocess.run([str(LAB), "stop", str(folder)], env=environ, capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, environ: dict[str, str], nodes: int) -> int:
    command = [str(LAB), "start", str(folder), str(nodes), "4", "0"]
    with (folder / "start.log").open("w") as file:  # its daemons keep the streams: a pipe would never end
        return subprocess.run(command, env=environ, stdout=file, stderr=file, timeout=300).returncode


def _free_number() -> int:
    """Return a number of a cluster whose ports nobody has taken."""
    for number in range(10):
        with socket.socket() as taken:
            if taken.connect_ex(("127.0.0.1", 17000 + 100 * number)) and not _bridge(number).exists():
                return number
    raise AssertionError("ten clusters run on this machine already")


def _bridge(number: int) -> Path:
    return Path(f"/sys/class/net/slab{number}")
