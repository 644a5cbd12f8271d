"""The sandbox's launcher, a script of its own: makes the namespaces and starts the program that comes on standard input.

    python -I -S sandbox_launcher.py FD SECONDS MEMORY    # a program that reaches its end writes `passed` into FD

It runs without site-packages, so that a program costs two bare starts of Python. What fails is said on standard error.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import select
import signal
import sys
from pathlib import Path

PYTHON = Path(sys._base_executable).resolve()  # type: ignore[attr-defined]
LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NAMESPACES = 0x20000 | 0x8000000 | 0x20000000 | 0x40000000 | 0x4000000  # mount, ipc, pid, network, host name
NEW_USER = 0x10000000
READ_ONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
DETACH, PDEATHSIG, NO_NEW_PRIVS = 2, 1, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
ROOT = Path("/proc")  # is everywhere: in its namespace alone the new root lies over it, and no folder stays behind
ID, NOBODY = 1000, 65534  # of the program within, and outside where root starts it
FILE_SIZE, DISK, PROCESSES = 1 << 20, "16m", 16

# What the program is run by: as HumanEval's own, in one namespace, whatever it raises counts as failed.
RUNNER = """
import os, sys
out, program = int(sys.argv[1]), sys.stdin.read()
null = os.open("/dev/null", os.O_RDWR)
for number in (0, 1, 2):
    os.dup2(null, number)
exec(compile(program, "program", "exec"), {"__name__": "__main__"})
os.write(out, b"passed")
os._exit(0)
"""


def checked(result: int, what: str) -> None:
    """Raise OSError where a system call failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount a file system."""
    checked(
        LIBC.mount(
            source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), data.encode()
        ),
        f"mount {target}",
    )


def die_with_parent() -> None:
    """End with the process that started this one."""
    LIBC.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def seen() -> list[Path]:
    """Return what of the file system the program sees: Python, its library and the system's."""
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"]
    own = [PYTHON, Path(os.__file__).parent, Path(sys.base_prefix, "lib")]
    found: list[Path] = []
    for path in [*map(Path, system), *own]:
        covered = any(path.is_relative_to(other) and not other.is_symlink() for other in found)
        if path.exists() and not covered:
            found.append(path)
    return found


def show(path: Path) -> None:
    """Lay a file or folder of the system into the new root, read-only; a link as a link."""
    target = ROOT / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    if path.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    mount(str(path), str(target), None, BIND | REC)
    if path.parent != Path("/dev"):
        held = os.statvfs(path).f_flag & (NOSUID | NODEV | NOEXEC)  # what the outside forbids stays forbidden
        mount(str(path), str(target), None, REMOUNT | BIND | READ_ONLY | held)


def enter_root() -> None:
    """Make an empty file system the root, with what the program sees; the old one is gone for this process and its children."""
    mount("none", "/", None, REC | PRIVATE)
    mount("tmpfs", str(ROOT), "tmpfs", NOSUID | NODEV, f"size={DISK},mode=755")
    for path in seen():
        show(path)
    for name in ("tmp", "old"):
        (ROOT / name).mkdir(exist_ok=True)
    number = PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"no sandbox for {platform.machine()}")
    checked(LIBC.syscall(number, str(ROOT).encode(), f"{ROOT}/old".encode()), "pivot_root")
    os.chdir("/tmp")
    checked(LIBC.umount2(b"/old", DETACH), "umount")
    Path("/old").rmdir()
    mount("none", "/", None, REMOUNT | BIND | READ_ONLY | NOSUID | NODEV)
    mount("tmpfs", "/tmp", "tmpfs", NOSUID | NODEV, f"size={DISK},mode=777")
    os.chdir("/tmp")


def limit(seconds: float, memory: int) -> None:
    """Limit processor time, memory, file sizes and processes."""
    for what, most in (
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def first_process(out: int, seconds: float, memory: int) -> None:
    """Become the program, as the first process of its namespace and without rights."""
    die_with_parent()
    enter_root()
    if os.getuid() == 0:
        os.setgroups([])
    os.setresgid(ID, ID, ID)
    os.setresuid(ID, ID, ID)
    die_with_parent()  # once more: a change of user forgets it
    LIBC.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    limit(seconds, memory)
    os.set_inheritable(out, True)
    os.execve(PYTHON, [str(PYTHON), "-I", "-S", "-c", RUNNER, str(out)], {})  # other than user 0 it loses all rights


def map_users(process: int) -> None:
    """Give the namespace of a process its users: ours or, where we are root, root that makes it and nobody."""
    privileged = os.getuid() == 0
    if not privileged:
        Path(f"/proc/{process}/setgroups").write_text("deny")
    for kind, own in (("gid", os.getgid()), ("uid", os.getuid())):
        lines = f"0 0 1\n{ID} {NOBODY} 1\n" if privileged else f"{ID} {own} 1\n"
        Path(f"/proc/{process}/{kind}_map").write_text(lines)


def in_namespaces(out: int, seconds: float, memory: int, ready: int, mapped: int) -> int:
    """Enter the namespaces, start the first process and wait for it; return 0 unless it could not be started."""
    die_with_parent()
    checked(LIBC.unshare(NEW_USER), "unshare")
    os.write(ready, b"1")
    os.read(mapped, 1)
    checked(LIBC.unshare(NEW_NAMESPACES), "unshare")
    failed, tell = os.pipe()  # closed as the program begins
    process = os.fork()
    if process == 0:
        os.close(failed)
        guarded(lambda: first_process(out, seconds, memory), tell)
    os.close(tell)
    os.close(out)
    why = os.read(failed, 500).decode(errors="replace")
    handle = os.pidfd_open(process)
    if not select.select([handle], [], [], seconds)[0]:
        os.kill(process, signal.SIGKILL)  # and with it every other process of its namespace
    os.waitpid(process, 0)
    if why:
        print(why, file=sys.stderr)
    return 1 if why else 0


def guarded(work, tell: int) -> None:  # type: ignore[no-untyped-def]
    """Do what never returns where all goes well; say why it did, and end this process."""
    try:
        work()
    except BaseException as error:
        os.write(tell, str(error).encode())
    os._exit(1)


def main() -> int:
    """Make a sandbox for the program on standard input."""
    die_with_parent()
    out, seconds, memory = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    ready, is_ready = os.pipe()
    mapped, is_mapped = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            code = in_namespaces(out, seconds, memory, is_ready, mapped)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            code = 1
        sys.stderr.flush()
        os._exit(code)
    os.close(out)
    os.close(is_ready)
    if os.read(ready, 1):
        map_users(process)
        os.write(is_mapped, b"1")
    os.close(is_mapped)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
