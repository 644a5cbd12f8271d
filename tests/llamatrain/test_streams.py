"""Standard output whatever it leads to."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from launch.report.config import ReportConfig
from llamatrain.config.program import main


def test_a_terminal_that_lacks_a_character_ends_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit) as ended:
        main("report", ReportConfig, lambda cfg: print("✓ done"), ["folder=x"])
    assert (ended.value.code, written.getvalue()) == (0, b"? done\n")


def test_streams_that_were_closed_lead_nowhere(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").write_text("from llamatrain import stopping\nstopping.watch(__name__)\n")
    main = "import sys\nprint('lost', open('file', 'w').fileno())\nprint('lost', file=sys.stderr)\nsys.exit(7)\n"
    (tmp_path / "program" / "__main__.py").write_text(main)
    closed = f"PYTHONPATH={repository} exec {sys.executable} -m program <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", closed], cwd=tmp_path).returncode == 7
    assert (tmp_path / "file").read_text() == ""  # it has no stream's number
    closed = f"exec {sys.executable} -m launch --version >&- 2>&-"
    assert subprocess.run(["bash", "-c", closed], cwd=repository).returncode == 0


INTERRUPTED = """
import signal, sys

inside = False

def interrupt(*_):
    global inside
    if inside:
        inside = False
        raise KeyboardInterrupt

signal.set_wakeup_fd(-1)  # as within a run: nothing but the handler hears the signal
signal.signal(signal.SIGALRM, interrupt)
for number in range(3000):
    try:
        inside = True
        signal.setitimer(signal.ITIMER_REAL, 1e-5)
        sys.stdout.write(f"{number}\\n")
        inside = False
    except KeyboardInterrupt:
        pass
print("end")
"""


def test_a_signal_in_the_middle_of_a_line_writes_it_no_second_time(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "__init__.py").write_text("from llamatrain import stopping\nstopping.watch(__name__)\n")
    (tmp_path / "program" / "__main__.py").write_text(INTERRUPTED)
    ours, theirs = pty.openpty()
    command, environ = [sys.executable, "-m", "program"], {**os.environ, "PYTHONPATH": str(repository)}
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        seen = b""
        while not seen.endswith(b"end\r\n"):
            seen += os.read(ours, 4096)
    lines = seen.split()
    assert len(lines) > 100 and len(lines) == len(set(lines))
