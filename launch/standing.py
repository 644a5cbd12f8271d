"""How each stage of a pipeline, or a run, stands: read from its files, and from Slurm's queue where that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llamatrain.errors import UserError
from llamatrain.lock import at_work
from llamatrain.progress import counted, duration
from llamatrain.run_files import INCIDENTS, METRICS
from llamatrain.runs import figure, read_json, read_status
from llamatrain.spent import spent

from .found import PIPELINE, Folder, end_of, newest, run
from .graph import resolve
from .listing import count
from .programs import PROGRAMS
from .record import NAME as RECORD
from .slurm.attempts import Attempt, last_error, of_job, read_attempts
from .slurm.queue import Queued
from .slurm.submitted import JOBS, REPORT, Submitted, read_jobs
from .stage import read_plan

LOG = "job.log"  # a job's own
ROWS = 20  # lines of metrics.jsonl that the speed is a mean of
LOSSES = ("eval/loss", "train/loss")
ENDS = {
    None: "its node or Slurm ended it",
    75: "it was saved and stopped",
    76: "a bad node",
    134: "a rank hung or was gone",
    137: "a rank was killed",
}


@dataclass(frozen=True)
class Standing:
    """How a stage, or a run, stands."""

    name: str
    state: str  # as `found.Found` has it; queued, starting, not started, cancelled
    job: str = ""
    step: str = ""
    loss: float | None = None
    tokens_per_second: float | None = None
    left: float | None = None  # seconds
    restarts: int = 0
    gpu_hours: float = 0.0
    core_hours: float = 0.0
    note: str = ""

    @property
    def cells(self) -> dict[str, str]:
        """What stands in each column."""
        return {
            "stage": self.name,
            "state": self.state,
            "job": self.job,
            "step": self.step,
            "loss": "" if self.loss is None else figure(self.loss),
            "tokens/s": "" if self.tokens_per_second is None else count(round(self.tokens_per_second)),
            "left": "" if self.left is None else duration(self.left),
            "restarts": str(self.restarts or ""),
            "cost": cost(self.gpu_hours, self.core_hours),
        }


def standings(folder: Path, active: Sequence[Queued] | None, now: float) -> list[Standing]:
    """Return how each stage of a pipeline stands, in their order, or a run on its own; `active` is None away from Slurm."""
    described = read_json(folder / PIPELINE).get("stages")
    noted = read_jobs(folder)
    if not isinstance(described, dict):
        program_of = read_status(folder).get("program") or next(iter(noted), folder.name)
        return [_standing(str(program_of), folder, folder / JOBS, noted.get(str(program_of)), active, now)]
    found: dict[str, Standing] = {}
    awaited = _awaited(folder)
    for name, about in described.items():
        one = _standing(name, folder / name, folder / JOBS / name, noted.get(name), active, now)
        if one.state == "not started" and name in awaited:  # of a chain of jobs: what waits has none
            file = awaited[name]
            told = any(file in other.note for other in found.values())
            one = Standing(name, "waiting", note="" if told else f"waits for {file}")
        found[name] = _behind(one, about.get("parents", []), found, name in noted)
    if REPORT in noted:
        found[REPORT] = _behind(_of_report(folder, noted[REPORT], active), list(described), found, submitted=True)
    return list(found.values())


def _of_report(folder: Path, noted: Submitted, active: Sequence[Queued] | None) -> Standing:
    """Return how the job stands that writes the report: it makes a page, and no run."""
    page, jobs = folder / "report.html", folder / JOBS / REPORT
    queued = next((job for job in active or () if job.number == noted["job"] or job.run == str(page.absolute())), None)
    if queued is None and page.exists() and page.stat().st_mtime >= noted["time"]:
        return Standing(REPORT, "done", noted["job"])
    number = queued.number if queued is not None else noted["job"]
    state, why = _before_run(page, jobs, number, queued, of_job(read_attempts(jobs), number), active is not None)
    return Standing(REPORT, "running" if state == "starting" else state, number, note=why)


def _awaited(folder: Path) -> dict[str, str]:
    """Return stage -> the file of people's that it waits for, by the pipeline's plan."""
    with suppress(UserError):
        place, planned, content = read_plan(folder)
        paths = {one.name: resolve(path, folder, place.data_root) for one in planned for path in one.awaited}
        return {name: path for name, path in paths.items() if not (Path(content["working_folder"]) / path).exists()}
    return {}


def _behind(one: Standing, parents: Sequence[str], before: Mapping[str, Standing], submitted: bool) -> Standing:
    """Say of a stage that did not start which one it stands behind."""
    if one.state not in ("not started", "cancelled"):
        return one
    broken = [name for name in parents if name in before and before[name].state in ("failed", "killed", "cancelled")]
    if broken and submitted:
        return Standing(one.name, "cancelled", job=one.job, note=f"{broken[0]} {before[broken[0]].state}")
    waiting = [name for name in parents if name in before and before[name].state == "waiting"]
    return Standing(one.name, one.state, note=f"behind {waiting[0]}") if waiting else one


def _standing(
    name: str, path: Path, jobs: Path, noted: Submitted | None, active: Sequence[Queued] | None, now: float
) -> Standing:
    number = noted["job"] if noted is not None else ""
    queued = next((job for job in active or () if job.number == number or job.run == str(path.absolute())), None)
    number = queued.number if queued is not None else number
    attempts = of_job(read_attempts(jobs), number)
    pending = queued is not None and queued.state == "PENDING"
    there = folder_of(path)
    if not there.is_run:
        state, why = _before_run(path, jobs, number, queued, attempts, active is not None)
        return Standing(name, state, number, note=why, restarts=max(0, len(attempts) - 1))
    one, status = run(there), read_status(path)
    state = one.state
    if queued is not None and state in ("stopped", "failed", "killed"):
        state = "queued" if pending else "starting"
    about = PROGRAMS.get(str(status.get("program")))
    _, last = newest(path, about.headline) if about is not None else (None, {})
    pace = _pace(path) if state == "running" else None
    ahead = one.total - one.step if one.total and one.step is not None else None
    taken = spent(path, state == "running", now)
    return Standing(
        name,
        state,
        number,
        ""
        if one.step is None or not (one.step or one.total)
        else count(one.step) + (f"/{count(one.total)}" if one.total else ""),
        next((last[key] for key in LOSSES if key in last), None),
        last.get("train/tokens_per_second") if state == "running" else None,
        ahead / pace if pace and ahead is not None else None,
        max(int(status.get("restarts", 0)), len(attempts) - 1),
        taken.gpu_hours,
        taken.core_hours,
        "; ".join(filter(None, (one.note, _incident(path, [attempt["before"] for attempt in attempts[1:]])))),
    )


def _before_run(
    path: Path, jobs: Path, number: str, queued: Queued | None, attempts: Sequence[Attempt], slurm: bool
) -> tuple[str, str]:
    """Return the state of what has no run yet, and why it is so, as far as is known."""
    if queued is not None:
        why = queued.reason.lower() if queued.reason not in ("None", "Dependency") else ""
        return ("queued" if queued.state == "PENDING" else "starting"), why
    if slurm and (attempts or (number and (jobs / LOG).exists())):
        what = counted(len(attempts), "start") if attempts else f"job {number}"
        return "failed", f"{what} ended before the run began: {last_error(jobs) or f'see {jobs / LOG}'}"
    if slurm and number:
        return "cancelled", f"job {number} left the queue before it began"
    # Its record is written before its program starts.
    return ("starting" if (path / RECORD).exists() and at_work(path.parent) else "not started"), ""


def _pace(folder: Path) -> float | None:
    """Return the steps per second of the newest lines of metrics.jsonl."""
    points = []
    for line in end_of(folder / METRICS).splitlines()[-ROWS:]:
        try:
            row = json.loads(line)
            points.append((float(row["time"]), float(row["step"])))
        except (ValueError, KeyError, TypeError):
            continue
    if len(points) < 2 or points[-1][0] <= points[0][0]:
        return None
    return (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0]) or None


def _incident(folder: Path, ends: Sequence[int | None]) -> str:
    """Return the last thing that went wrong and was got over: a loss spike, what a guard flagged, or what a restart followed."""
    told = []
    for line in end_of(folder / INCIDENTS).splitlines()[-1:]:
        try:
            row = json.loads(line)
            what = f"guard {row['guard']}" if "guard" in row else "loss spike"
            told.append(f"{what} at step {row['step']}, back to {row['back_to']}")
        except (ValueError, KeyError, TypeError):
            continue
    if ends:
        code = ends[-1]
        told.append(f"last restart: {ENDS.get(code, f'exit code {code}')}")
    return "; ".join(told)


def folder_of(path: Path) -> Folder:
    """Return a folder with what lies right in it: a run shows there, and looking further takes long on a network's disk."""
    return Folder(path, {one.name for one in path.iterdir()} if path.is_dir() else set())


def cost(gpu_hours: float, core_hours: float) -> str:
    """Write hours of GPUs and cores: 12.3 GPU h."""
    parts = [f"{hours:,.2f} {unit} h" for hours, unit in ((gpu_hours, "GPU"), (core_hours, "core")) if hours >= 0.005]
    return " + ".join(parts)
