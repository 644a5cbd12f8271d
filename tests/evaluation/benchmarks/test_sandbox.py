"""Hostile programs in the code tasks' sandbox."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluation.benchmarks import sandbox
from evaluation.benchmarks.code_tasks import humaneval, mbpp, pass_at_k, runs, score
from evaluation.benchmarks.sandbox import need_sandbox, passes
from llamatrain.errors import UserError

SECONDS = 60.0  # more than any program here needs, on a machine that is busy


@pytest.fixture(scope="module")
def box() -> None:
    """A sandbox; a test skips, saying why, where there is none."""
    try:
        need_sandbox()
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("box")
def test_a_program_passes_by_reaching_its_end() -> None:
    assert passes("import math, re, heapq, collections, itertools, typing\nassert math.gcd(4, 6) == 2", SECONDS)
    for program in ("assert False", "1 / 0", "raise SystemExit(0)", "def broken(:", "import os; os._exit(0)"):
        assert not passes(program, SECONDS), program


@pytest.mark.usefixtures("box")
def test_no_file_of_the_user_can_be_read(tmp_path: Path) -> None:
    """Not by its path, through no descriptor, and from no process; nothing of the system can be written."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        assert passes(
            f"""
import os
for path in ({str(secret)!r}, "/etc/passwd", "/proc/1/environ", "/proc/self/fd/{file.fileno()}", "/sys", "/root/.ssh", "/home", "/old"):
    assert not os.path.exists(path), path
for number in range(3, 1000):
    try:
        assert b"secret" not in os.pread(number, 100, 0)
    except OSError:
        pass
assert not os.environ.keys() - {{"LC_CTYPE"}} and os.getuid() != 0
for path in ("/x", "/usr/lib/x", os.__file__):
    try:
        open(path, "a")
    except OSError:
        continue
    raise AssertionError(path)
open("/tmp/mine", "w").write("of its own")
""",
            SECONDS,
        )
    assert not Path("/tmp/mine").exists()


@pytest.mark.usefixtures("box")
def test_no_network_is_reached() -> None:
    """Neither this machine's ports, nor its abstract sockets, nor another host's address."""
    with socket.socket() as listening, socket.socket(socket.AF_UNIX) as abstract:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        abstract.bind("\0llamatrain-test")
        abstract.listen()
        assert passes(
            f"""
import socket
for family, address in (
    (socket.AF_INET, ("127.0.0.1", {listening.getsockname()[1]})),
    (socket.AF_INET, ("192.0.2.1", 80)),
    (socket.AF_UNIX, "\\0llamatrain-test"),
):
    try:
        socket.socket(family).connect(address)
    except OSError:
        continue
    raise AssertionError(address)
assert [name for _, name in socket.if_nameindex()] == ["lo"]
""",
            SECONDS,
        )


@pytest.mark.usefixtures("box")
def test_nothing_outlives_its_limit(tmp_path: Path) -> None:
    """Neither an endless loop nor what a program left behind, also where signals are ignored."""
    mark = f"left-{os.getpid()}-{tmp_path.name}"
    spin = "import signal\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass"
    assert not passes(spin, 1.0)
    daemon = f"import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    os.execv(sys.executable, ['{mark}', '-c', 'import time; time.sleep(600)'])"
    passes(f"{daemon}\ntime.sleep(0.3)", SECONDS)
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in read(path)]


@pytest.mark.usefixtures("box")
def test_it_dies_with_the_process_that_runs_it(tmp_path: Path) -> None:
    """Also where that is killed: no program goes on, and no folder stays."""
    temporary = {"TMPDIR": str(tmp_path)}
    mark = f"alone-{os.getpid()}-{tmp_path.name}"
    program = f"import os, sys\nos.execv(sys.executable, ['{mark}', '-c', 'import time; time.sleep(600)'])"
    code = f"from evaluation.benchmarks.sandbox import passes; passes({program!r}, 600)"
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **temporary}) as runner:
        wait(lambda: bool(marked(mark)))
        runner.send_signal(signal.SIGKILL)
    wait(lambda: not marked(mark))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("box")
def test_memory_processes_and_files_are_limited() -> None:
    for program in (
        "x = bytearray(4 << 30)",
        "open('/tmp/x', 'wb').write(bytes(8 << 20))",
        "import os\nfor n in range(200):\n    if os.fork() == 0:\n        import time; time.sleep(600)",
    ):
        assert not passes(program, SECONDS), program


def marked(mark: str) -> list[Path]:
    return [path for path in Path("/proc").glob("[0-9]*/cmdline") if read(path).startswith(mark.encode())]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def wait(until) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_where_there_is_no_sandbox_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_outcome", lambda program, seconds: (False, "unshare: Operation not permitted"))
    need_sandbox.cache_clear()
    with pytest.raises(UserError, match=r"run_code=true: no sandbox .*unshare: Operation not permitted.*: need Linux"):
        need_sandbox()
    need_sandbox.cache_clear()


# --- what is run, and how it counts ---


@pytest.mark.usefixtures("box")
def test_programs_are_run_in_the_order_of_their_problems() -> None:
    row = {"prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1", "entry_point": "one"}
    bad, good = "    return 2", "    return 1"
    found = runs("humaneval", SECONDS)([[bad, good], [good, good], [bad, bad]], [row] * 3)
    assert found == [[False, True], [True, True], [False, False]]
    assert [score([1, 2])(row, [own]) for own in found] == [
        {"pass@1": 0.5, "pass@2": 1.0},
        {"pass@1": 1.0, "pass@2": 1.0},
        {"pass@1": 0.0, "pass@2": 0.0},
    ]
    assert humaneval(row, good).endswith("assert f() == 1\ncheck(one)\n")
    assert mbpp({"test_list": ["assert a", "assert b"]}, "a = b = 1") == "\na = b = 1\nassert a\nassert b\n"


def test_pass_at_k_is_the_share_of_draws_with_a_passing_program() -> None:
    """By the closed form of the paper that defined it: 1 - C(n - c, k) / C(n, k)."""
    assert pass_at_k(5, 2, 1) == pytest.approx(2 / 5)
    assert pass_at_k(5, 2, 2) == pytest.approx(1 - 3 / 10)
    assert pass_at_k(5, 2, 4) == 1.0
