"""Atomic writes: the old content or the new one, and on the disk before anyone sees its name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from llamatrain import atomic


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is brought to the disk and renamed, in order."""
    seen: list[str] = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def synced(descriptor: int) -> None:
        seen.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        seen.append(f"rename {target.name}")
        replace(source, target)

    def renamed(source: Path, target: Path) -> None:
        seen.append(f"rename {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "rename", renamed)
    return seen


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_the_return(tmp_path: Path, calls: list[str]) -> None:
    atomic.write_json(tmp_path / "status.json", {"name": "é"})
    assert calls == ["fsync .status.json.tmp", "rename status.json", f"fsync {tmp_path.name}"]
    assert (tmp_path / "status.json").read_bytes() == b'{\n "name": "\\u00e9"\n}\n'
    atomic.write_text(tmp_path / "text", "é\u2028\r\n")
    assert (tmp_path / "text").read_bytes() == "é\u2028\r\n".encode()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write_text(path, "old")

    def halfway() -> None:
        with atomic.replacing(path) as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halfway()
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "old"


def test_what_a_kill_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_text("half of a longer tex")
    atomic.write_text(tmp_path / "file", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "new"


def test_a_link_is_replaced(tmp_path: Path) -> None:
    for step in ("step_1", "step_2"):
        (tmp_path / step).mkdir()
        atomic.write_link(tmp_path / "final", Path(step))
        assert (tmp_path / "final").readlink() == Path(step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["final", "step_1", "step_2"]


def test_a_folder_is_published_with_all_that_is_in_it(tmp_path: Path, calls: list[str]) -> None:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "inner" / "file").write_text("content")
    (made / "link").symlink_to("nowhere")
    atomic.publish(made, tmp_path / "done")
    assert sorted(calls[:3]) == ["fsync file", "fsync inner", "fsync made"]
    assert calls[3:] == ["rename done", f"fsync {tmp_path.name}"]
    assert (tmp_path / "done" / "inner" / "file").read_text() == "content"
    made.mkdir()
    with pytest.raises(OSError, match="not empty"):
        atomic.publish(made, tmp_path / "done")


@pytest.mark.parametrize(("error", "tolerated"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_only_a_disk_that_cannot_sync_folders_is_excused(
    error: int, tolerated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "fsync", refused)
    if tolerated:
        atomic.sync(tmp_path)
    else:
        with pytest.raises(OSError, match=os.strerror(error)):
            atomic.sync(tmp_path)
