"""A run: its folder, status, checkpoints and console; its metrics are in metrics.py, its signals in stopping.py.

    runs/<name>/  config.yaml  metrics.jsonl  incidents.jsonl  status.json  wandb/  checkpoints/  final

Rank 0 writes; every method may be called on all ranks alike.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import is_dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from . import __version__, atomic, distributed, kernels, lock, manifest
from .ending import ending
from .environment import environment
from .errors import UserError
from .keys import changed, to_dict
from .lock import Lock
from .metrics import Dashboard, Metrics
from .progress import Progress
from .replaced import bytes_of, move_content_beside, size
from .run_files import INCIDENTS, STATUS, Incident, Status
from .settings import RunConfig
from .stopping import Stopped, StopRequest, handling
from .text_files import DamagedFileError, read_json, read_lines

if TYPE_CHECKING:
    from .engine.learning import Engine
    from .tokenizer import Tokenizer

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
OWN = ("checkpoints", "chunks", "final", "metrics.jsonl", INCIDENTS, STATUS, "wandb")


class Run:
    """One program's run, as a context manager."""

    def __init__(
        self,
        config: RunConfig,
        program: str,
        settings: Any,
        parents: Mapping[str, Path] | None = None,
        data: Mapping[str, str] | None = None,
        fixed: Sequence[str] = (),
        free: Sequence[str] = (),
        dashboard: bool = True,
    ) -> None:
        """Open the run folder.

        `settings` is the program's whole configuration; `parents` the checkpoints it starts from; `data` the
        fingerprints of its data sets, which must not change between start and resume (None: it is never resumed);
        `fixed` the keys that, with run.seed, say which samples a step takes and by which loss, and must not change either. A
        finished run that has no checkpoint, whose result would be written anew, lets no setting change but those in
        `free`.
        `dashboard`: whether wandb hears of it, which takes a second or two at the start.
        """
        if config.verbose:
            os.environ["LLAMATRAIN_VERBOSE"] = "1"
        distributed.join_others()
        self.config, self.program = config, program
        self.settings = to_dict(settings)
        self.parents, self.data = dict(parents or {}), dict(data or {})
        self.fixed, self.free = ("run.seed", *fixed), free
        self._schema = type(settings)
        self._made_from = {**self.data, **{key: _parent_hash(path) for key, path in self.parents.items()}}
        self.folder = Path(config.dir) / config.name
        self.checkpoints = self.folder / "checkpoints"
        self.is_main = distributed.is_main()
        self.step = 0
        # A program whose data are known can be resumed: it stops at a step's end. Others stop at once.
        self._stop_request = StopRequest(patient=data is not None, speaks=self.is_main)
        self._signals = ExitStack()
        self._bar: Progress | None = None
        self._dashboard: Dashboard | None = None
        self._charts = dashboard and self.is_main and config.wandb.mode != "disabled"
        self._last: dict[str, float] = {}  # the newest value of each metric
        self._before = 0.0
        self._wandb_id = uuid.uuid4().hex[:8]
        self._opened = time.time()
        self._environment = environment() if self.is_main else {}
        self._lock: Lock | None = None
        self._metrics: Metrics | None = None
        self.incidents: list[dict[str, Any]] = []
        try:
            distributed.fail_together(self._opened_or_why_not() if self.is_main else "")
            self.incidents = distributed.broadcast_object(self.incidents)
            kernels.choose(config.kernels, distributed.broadcast_object(kernels.used()))
        except BaseException:
            self._let_go()
            raise

    def _opened_or_why_not(self) -> str:
        """Open the folder on rank 0; return what the others are to be told where that fails."""
        try:
            self._open()
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"cannot write in {self.folder}: {error.strerror}"
        return ""

    def _open(self) -> None:
        if self.config.resume == "required" and not manifest.published(self.checkpoints):
            raise UserError(f"run.resume=required, but {self.checkpoints} holds no checkpoint")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run.dir={self.config.dir}: cannot make {self.folder} ({error.strerror})") from None
        self._lock = Lock(self.folder)  # what else lies there is read, written and moved only from here on
        owner = self.status().get("program", self.program)
        if owner != self.program:
            raise UserError(f"run.name={self.config.name}: {self.folder} is a run of {owner}; choose another run.name")
        if self.config.resume == "never" and any((self.folder / name).exists() for name in OWN):
            stays = (lock.NAME, "stage.json")
            other_runs = {path.parent.name for path in self.folder.glob("*/status.json")}
            names = [path.name for path in self.folder.iterdir() if path.name not in (*stays, *other_runs)]
            moved = move_content_beside(self.folder, names)
            self.print(f"what {self.folder} held ({size(bytes_of(moved))}) is kept in {moved}")
        saved = manifest.published(self.checkpoints)
        final = self.folder / "final"
        if final.exists() and not final.is_symlink():
            raise UserError(f"{final} is where the run puts a link to its last checkpoint: move away what is there")
        old = self.status()
        if old.get("state") == "done" and not saved:
            self._refuse_change(old)
        self._before = float(old.get("seconds", 0.0)) if saved else 0.0
        self._wandb_id = old.get("wandb_id", self._wandb_id)
        kernels.choose(self.config.kernels, old.get("kernels", {}) if saved else {})
        atomic.write_text(self.folder / "config.yaml", yaml.safe_dump(self.settings, sort_keys=False))
        self._write_status("running")
        self._metrics = Metrics(self.folder / "metrics.jsonl")
        self.incidents = self._read_incidents()

    def _refuse_change(self, old: Status) -> None:
        """Refuse to replace a finished result that was made with other settings or from other files."""
        mend = "take back the change, or start anew with run.resume=never or another run.name"
        if is_dataclass(self._schema):
            before = yaml.safe_load((self.folder / "config.yaml").read_text())
            now = yaml.safe_load(yaml.safe_dump(self.settings))
            for key, was, value in changed(self._schema, before, now):
                if key.partition(".")[0] not in self.free:
                    made = f"{self.folder} is finished and was made with {_cut(was)}"
                    raise UserError(f"{key}={_cut(value)}: {made}: {mend}")
        made_from = old.get("made_from") or {}
        for name, content in self._made_from.items():
            if made_from.get(name, content) != content:
                raise UserError(f"what '{name}' names changed since {self.folder} was finished: {mend}")

    def _gone(self) -> str:
        """Return what to say where the folder is no longer this run's: removed, replaced, or taken over (rank 0)."""
        if self._metrics is None or self._lock is None:
            return ""
        if self._metrics.in_place() and self._lock.held():
            return ""
        return f"{self.folder} was removed, replaced or taken over while this run was at work in it: it stops"

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()

    # --- context ---

    def __enter__(self) -> Run:
        """Watch for signals that ask to save and stop, and open the dashboard."""
        self._signals.enter_context(handling(self._stop_request.hear))
        try:
            self._open_dashboard()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def _open_dashboard(self) -> None:
        config = self.config
        if self._charts:
            self._dashboard = Dashboard(
                config.wandb, self.folder, self._wandb_id, config.name, self.program, self.settings
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record how the run ended. A launcher may end all ranks as soon as one has left: until then signals wait."""
        self._stop_request.patient = True
        late: Exception | None = None
        try:
            self._close(error)
        except (OSError, UserError) as found:
            late = found
        if self._dashboard is not None:
            self._dashboard.finish(failed=error is not None or late is not None)
        if isinstance(error, Stopped):
            distributed.barrier()
        self._signals.close()
        self._let_go()
        if any(isinstance(e, OSError) and e.errno in DISK_FULL for e in (error, late)):
            raise UserError(f"no space left on the disk of {self.folder}; its checkpoints are untouched") from None
        if error is None and late is not None:
            raise late

    def _close(self, error: BaseException | None) -> None:
        gone = self._gone()
        if self._metrics is not None:
            self._metrics.close()  # first: a full disk shows here
        if gone and error is None:
            raise UserError(gone)
        if self.is_main and not gone:
            if error is None:
                self._write_status("done")
                if not (self.folder / "stage.json").exists():  # of a stage its pipeline tells the result
                    self.print(ending(self.program, self.folder, self._last))
            elif isinstance(error, Stopped):
                self._write_status("stopped", str(error))
            else:
                self._write_status("failed", f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    # --- status ---

    def status(self) -> Status:
        """Return status.json as it lies in the folder; nothing where there is none or, with a warning, a damaged one."""
        try:
            return read_json(self.folder / STATUS, Status)
        except FileNotFoundError:
            return {}
        except DamagedFileError as error:  # nothing depends on it: the checkpoints say where the run stands
            self.print(f"warning: {error}; it is written anew")
            return {}

    def _write_status(self, state: str, reason: str = "") -> None:
        content = {
            "state": state,
            "program": self.program,
            "step": self.step,
            "reason": reason,
            "started": self._opened,
            "updated": time.time(),
            "seconds": round(self._before + time.time() - self._opened, 2),
            "ranks": distributed.world_size(),
            "wandb_id": self._wandb_id,
            "made_from": self._made_from,
            "environment": self._environment,
            "kernels": kernels.used(),
        }
        atomic.write_json(self.folder / STATUS, content)

    # --- console and metrics ---

    def print(self, text: str) -> None:
        """Print a line (rank 0), above the progress bar where there is one."""
        if not self.is_main or not self.config.progress or not text:
            return
        if self._bar is not None:
            self._bar.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def progress(self, total: int, description: str, unit: str, done: int = 0, every: int = 0) -> Progress:
        """Return a progress bar of this run (use it in a with statement)."""
        show = self.is_main and self.config.progress
        self._bar = Progress(total, description, unit, done=done, show=show, every=every)
        return self._bar

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Write a step's metrics (rank 0); step 0, of programs without steps, goes into the dashboard's summary."""
        self.step = step
        if self._metrics is None:
            return
        numbers = {key: float(value) for key, value in values.items()}
        self._last.update(numbers)
        self._metrics.log(step, numbers)
        if self._dashboard is not None and step > 0:
            again = sum(incident["step"] - incident["back_to"] for incident in self.incidents)
            self._dashboard.log(step, again, numbers)
        elif self._dashboard is not None:
            self._dashboard.summarise(numbers)

    # --- cadence and signals ---

    def eval_due(self, step: int, total: int) -> bool:
        """Tell whether held-out data are evaluated after `step` (always after the last)."""
        return step == total or (self.config.eval_every > 0 and step % self.config.eval_every == 0)

    def due(self, step: int) -> bool:
        """Tell whether a checkpoint is due after `step`."""
        return self.config.save_every > 0 and step % self.config.save_every == 0

    def stop_requested(self) -> bool:
        """Tell, on all ranks alike, whether any of them was told to stop."""
        return distributed.any_rank(self._stop_request.signal is not None)

    def stop(self, step: int) -> NoReturn:
        """Leave, all ranks together, after the step's checkpoint was saved."""
        self.step = step
        name = next((name for name in distributed.gather_objects(self._stop_request.signal) if name), "stop")
        raise Stopped(f"{name} at step {step}; saved in {self.folder}. The same command goes on from there")

    # --- checkpoints ---

    def resume(self, engines: Mapping[str, Engine]) -> tuple[int, dict[str, Any]]:
        """Restore the newest checkpoint of this run into the engines; return its step and state, or (0, {})."""
        from . import checkpoint

        if self.is_main:
            for left in self.checkpoints.glob("step_*.tmp"):  # by a kill while it was written or deleted
                shutil.rmtree(left, ignore_errors=True)
        self._drop_stale()
        newest = checkpoint.latest(self.checkpoints)
        if newest is None:
            if self._metrics is not None:
                self._metrics.cut(0)
            return 0, {}
        lineage = checkpoint.lineage(newest)
        changed = sorted(k for k in self.data if lineage["data"].get(k) != self.data[k])
        if changed:
            raise UserError(
                f"the data behind '{changed[0]}' changed since {newest} was saved: take back the change, "
                f"or start anew with run.resume=never or another run.name"
            )
        parents = {key: lineage["parents"].get(key, {}).get("sha256") for key in self.parents}
        other = sorted(key for key, path in self.parents.items() if parents[key] != _parent_hash(path))
        if other:
            raise UserError(
                f"{other[0]}={self.parents[other[0]]} is not what {newest} was trained from: "
                f"take back the change, or start anew with run.resume=never or another run.name"
            )
        settings = json.loads(json.dumps(self.settings, default=str))
        for key in self.fixed:
            before, now = _setting(lineage["config"], key), _setting(settings, key)
            if before != now:
                raise UserError(
                    f"{key}={now}: {newest} was trained with {before}, and another value would change its samples or "
                    f"its loss halfway: take back the change, or start anew with run.resume=never or another run.name"
                )
        step, state = self._restore(newest, engines)
        self.print(f"resumed from {newest} at step {step}")
        for difference in _differences(lineage["config"], settings):
            self.print(f"changed since it was saved: {difference}")
        return step, state

    def _restore(self, folder: Path, engines: Mapping[str, Engine]) -> tuple[int, dict[str, Any]]:
        from . import checkpoint

        state = checkpoint.restore(folder, engines)
        step = int(checkpoint.lineage(folder)["step"])
        for name, engine in engines.items():
            engine.state.set_step(int(state.get("updates", {}).get(name, step)))
        self.step = step
        if self._metrics is not None:
            self._metrics.cut(step)
            self._write_status("running")
        return step, state

    def logged_after(self, step: int) -> list[dict[str, Any]]:
        """Return the metrics of the steps after `step`, as they were logged (rank 0)."""
        assert self._metrics is not None
        return self._metrics.after(step)

    def save(
        self, step: int, engines: Mapping[str, Engine], tokenizer: Tokenizer, state: Mapping[str, Any] | None = None
    ) -> Path:
        """Save a checkpoint of all engines (the first is the published model) and drop the oldest beyond `run.keep`."""
        from . import checkpoint

        target = self.checkpoints / f"step_{step:08d}"
        lineage = {
            "program": self.program,
            "step": step,
            "config": self.settings,
            "parents": {k: {"path": str(p), "sha256": _parent_hash(p)} for k, p in self.parents.items()},
            "data": self.data,
            "incidents": len(self.incidents),
            "evaluated": {key: value for key, value in self._last.items() if key.startswith("eval/")},
            "version": __version__,
        }
        if self._metrics is not None:
            self._metrics.flush()
        distributed.fail_together(self._gone())
        updates = {name: engine.steps_done for name, engine in engines.items()}
        checkpoint.save(target, engines, tokenizer, lineage, {**(state or {}), "updates": updates})
        self.step = step
        if self.is_main:
            self._write_status("running")
            found = checkpoint.published(self.checkpoints)
            if self.config.keep:
                for old in found[: -self.config.keep]:
                    _delete(old)
        distributed.barrier()
        return target

    # --- going back ---

    def before(self, step: int) -> int:
        """Return the step of the newest checkpoint that was saved after `step` steps at most; UserError without one."""
        from . import checkpoint

        # Rank 0's list counts: on a shared disk the others may see an older one.
        steps = distributed.broadcast_object([checkpoint.step_of(p) for p in checkpoint.published(self.checkpoints)])
        good = max((saved for saved in steps if saved <= step), default=None)
        if good is None:
            raise UserError(
                f"a spike began at step {step + 1}, and no checkpoint in {self.checkpoints} is from before it: "
                "raise run.keep or run.save_every, to have older ones"
            )
        return good

    def record(self, incident: dict[str, Any]) -> None:
        """Add a line to incidents.jsonl, on the disk before this returns. From then on it holds, also for a killed run.

        `first_step` is the first of its steps, counted from 1: checkpoints with it that do not know of the incident are
        dropped by `go_back` and `resume`.
        """
        self._write_incidents(json.dumps(incident) + "\n", anew=False)
        self.incidents.append(incident)

    def amend(self) -> None:
        """Write incidents.jsonl anew after a change in `incidents`: a kill leaves the old one or the new one."""
        self._write_incidents("".join(json.dumps(incident) + "\n" for incident in self.incidents), anew=True)

    def _write_incidents(self, text: str, anew: bool) -> None:
        path, failure = self.folder / INCIDENTS, ""
        if self.is_main:
            try:
                if anew:
                    atomic.write_text(path, text)
                else:
                    with path.open("a") as file:
                        file.write(text)
                        file.flush()
                        os.fsync(file.fileno())
            except OSError as error:
                failure = f"cannot write {path}: {error.strerror}"
        distributed.fail_together(failure)

    def go_back(self, engines: Mapping[str, Engine]) -> tuple[int, dict[str, Any]]:
        """Restore the newest checkpoint that the recorded incidents leave; return its step and state."""
        from . import checkpoint

        self._drop_stale()
        newest = checkpoint.latest(self.checkpoints)
        assert newest is not None, "`before` found one"
        return self._restore(newest, engines)

    def _read_incidents(self) -> list[dict[str, Any]]:
        path = self.folder / INCIDENTS
        if not path.is_file():
            return []
        mend = "it says which samples to pass over: mend it, or start anew with another run.name"
        found = [{**incident} for incident in read_lines(path, Incident, mend, grows=True)]
        if not path.read_bytes().endswith(b"\n"):  # cut short by a kill: the run finds the incident again
            atomic.write_text(path, "".join(f"{json.dumps(incident)}\n" for incident in found))
        return found

    def _drop_stale(self) -> None:
        """Delete the checkpoints that hold a step of an incident and were saved before it was known."""
        from . import checkpoint

        if not self.incidents:
            return
        if self.is_main:
            for path in checkpoint.published(self.checkpoints):
                unknown = self.incidents[checkpoint.lineage(path).get("incidents", 0) :]
                if any(checkpoint.step_of(path) >= incident["first_step"] for incident in unknown):
                    _delete(path)
        distributed.barrier()

    def finish(self, step: int) -> None:
        """Point `final` at the last checkpoint."""
        self.step = step
        if self.is_main:
            atomic.write_link(self.folder / "final", Path("checkpoints") / f"step_{step:08d}")
        distributed.barrier()


def _delete(folder: Path) -> None:
    """Delete a checkpoint under a name that is not published: a kill leaves no half of one that counts.

    Of one that was moved to another disk and linked from here only the link goes.
    """
    if folder.is_symlink():
        folder.unlink()
        return
    doomed = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _parent_hash(path: Path) -> str | None:
    folder = path / "final" if (path / "final").exists() else path
    return manifest.fingerprint(folder) if (folder / manifest.NAME).is_file() else None


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _setting(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config.get(name, {})
    return config


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return `key: before -> now` for every setting that differs and is not about the run folder alone."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in new if name in old and (key, name) != ("", "run")]
        return [line for name in names for line in _differences(old[name], new[name], f"{key}.{name}".strip("."))]
    return [] if old == new else [f"{key}: {old} -> {new}"]
