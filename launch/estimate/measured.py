"""What a run measured of starts, checkpoints and queues, for plans of larger ones: its checkpoints' seconds scaled by bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llamatrain.errors import UserError
from llamatrain.outlook import bytes_in_words, short
from llamatrain.replaced import bytes_of
from llamatrain.run_files import METRICS
from llamatrain.runs import Row, is_number, ranks_per_node, read_lines, read_status

from ..forecast import Failures
from ..slurm.attempts import read_attempts
from ..slurm.submitted import JOBS, read_jobs
from .chain import Estimated
from .tables import write_seconds

NAMES = ("start_seconds", "save_seconds", "publish_seconds", "queue_seconds")


def known(failures: Failures, one: Estimated, folder: Path | None) -> tuple[Failures, str]:
    """Return the seconds of starts, checkpoints and queues for a stage, as a run measured them or assumed; and in words which."""
    seen = of_run(folder, one) if folder is not None else {}
    made, words = replace(failures, **seen), list[str]()
    if seen:
        scale = scaled(folder, one) if folder is not None and "save_seconds" in seen else ""
        words.append(f"{_listed(seen)} as measured in {folder}{scale}")
    if made.publish_seconds is None:
        made = replace(made, publish_seconds=write_seconds(one))
        words.append(
            f"{_listed({'publish_seconds': made.publish_seconds or 0.0})} by cluster.hardware.disk_gigabytes_per_second"
        )
    rest = {name: getattr(failures, name) for name in NAMES if name not in seen and getattr(failures, name) is not None}
    if one.work is not None and one.work.waits(one.machine) and made.publish_seconds is not None:
        made = replace(made, save_seconds=made.publish_seconds, publish_seconds=0.0)
        rest.pop("save_seconds", None)
        words.append(f"training stands still for all of {short(made.save_seconds)} s, for want of room for copies")
    words.append(f"{_listed(rest)} as configs/failures assumes" if rest else "")
    return made, f"of starts and checkpoints: {'; '.join(filter(None, words))}"


def _listed(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {short(value)}" for name, value in found.items())


def of_run(folder: Path, one: Estimated) -> dict[str, float]:
    """Return what a run measured; UserError where it measured nothing of this."""
    status = read_status(folder)
    if not status:
        raise UserError(f"measured={folder}: there is no run; need a run folder, such as runs/demo/pretrain")
    start, queue = start_seconds(folder, status), queue_seconds(folder)
    found = {} if start is None else {"start_seconds": start}
    found |= {} if queue is None else {"queue_seconds": queue}
    found |= checkpoint_seconds(folder, status, one)
    if not found:
        raise UserError(f"measured={folder}: it logged neither steps nor checkpoints; need a run that trains")
    return found


def start_seconds(folder: Path, status: Row) -> float | None:
    """Return the seconds of the last attempt from the opening of its folder to its first step, without loading torch."""
    for row in read_lines(folder / METRICS):
        own = sum(row[key] for key in row if key.endswith(("/step_seconds", "/read_seconds")) or "/seconds_" in key)
        if is_number(row.get("time")) and row["time"] > status.get("started", 0.0) and row.get("step", 0) > 0:
            return max(0.01, float(row["time"] - own - status["started"]))
    return None


def checkpoint_seconds(folder: Path, status: Row, one: Estimated) -> dict[str, float]:
    """Return for how long training stands still and until a checkpoint is published, scaled to the planned one's bytes."""
    assert one.work is not None
    measured, held = status.get("measured") or {}, _bytes(folder)
    if not held or not is_number(measured.get("save_seconds")) or not is_number(measured.get("publish_seconds")):
        return {}
    ranks = int(status.get("ranks") or 1)
    each = one.work.checkpoint_bytes / one.machine.ranks / (held / ranks)
    whole = one.work.checkpoint_bytes / one.machine.nodes / (held / -(-ranks // ranks_per_node(status, ranks)))
    return {"save_seconds": measured["save_seconds"] * each, "publish_seconds": measured["publish_seconds"] * whole}


def scaled(folder: Path, one: Estimated) -> str:
    """Say by what a checkpoint's seconds are scaled."""
    assert one.work is not None
    sizes = f"{bytes_in_words(_bytes(folder))} to {bytes_in_words(one.work.checkpoint_bytes)}"
    return f" (checkpoints scaled from {sizes}, standing still by the bytes of a rank, publishing by those of a node)"


def queue_seconds(folder: Path) -> float | None:
    """Return the seconds that a run's job waited in Slurm's queue at first, where it waited for no other job."""
    for home, name in ((folder.parent, folder.name), (folder, str(read_status(folder).get("program")))):
        submitted = read_jobs(home).get(name)
        starts = read_attempts(home / JOBS / name) or read_attempts(home / JOBS)
        if submitted is not None and not submitted["after"] and starts:
            return max(0.0, starts[0]["started"] - submitted["time"])
    return None


def _bytes(folder: Path) -> int:
    final = folder / "final"
    return bytes_of(final.resolve()) if final.exists() else 0
