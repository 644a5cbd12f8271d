"""A run: its checkpoints and console, over its folder (run_folder.py), metrics (metrics.py) and signals (stopping.py).

    runs/<name>/  config.yaml  metrics.jsonl  incidents.jsonl  status.json  wandb/  checkpoints/  final

Rank 0 writes; every method may be called on all ranks alike.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import distributed, heartbeat, kernels, manifest, preflight, watch
from .best import Best
from .ending import ending
from .errors import DiskError, UserError, no_space
from .incidents import add_incident, drop_stale, read_incidents
from .keys import to_dict
from .metrics import Dashboard, Metrics
from .power import Sampler
from .progress import Progress
from .replaced import size
from .resuming import changes_since, lineage_of, parent_hash, refuse_resume
from .run_files import METRICS
from .run_folder import RunFolder
from .saver import Saver
from .settings import RunConfig
from .stopping import Interrupted, Stopped, StopRequest, handling, heard_by_a_thread
from .watch import Watch

if TYPE_CHECKING:
    from .engine.learning import Engine
    from .tokenizer import Tokenizer


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
        inputs: Mapping[str, str] | None = None,
        then: str = "",
    ) -> None:
        """Open the run folder.

        `settings` is the program's whole configuration; `parents` the checkpoints it starts from; `data` the
        fingerprints of its data sets, which must not change between start and resume (None: it is never resumed);
        `fixed` the keys that, with run.seed, say which samples a step takes and by which loss, and must not change either. A
        finished run that has no checkpoint, whose result would be replaced, lets no setting change but those in
        `free`, nor what it was made from: `data`, the parents, and `inputs`, hashes of what a program without `data` reads.
        `dashboard`: whether it is also logged to wandb, which takes a second or two. `then`: the command that goes on.
        """
        if config.verbose:
            os.environ["LLAMATRAIN_VERBOSE"] = "1"
        distributed.join_others()
        self.config, self.program, self._then = config, program, then
        self.settings = to_dict(settings)
        self.parents, self.data = dict(parents or {}), dict(data or {})
        self.fixed = ("run.seed", *fixed)
        self._inputs = {**self.data, **(inputs or {})}
        self._home = RunFolder(config, program, self.print)
        self.folder, self.checkpoints = self._home.path, self._home.checkpoints
        self.is_main, self.step = distributed.is_main(), 0
        self.saved = 0  # the step of the weights on disk: at 0 those that the run starts from
        # A program whose data are known can be resumed: it stops at a step's end. Others stop at once, alone.
        patient = data is not None or distributed.world_size() > 1
        self._stop_request = StopRequest(patient, speaks=self.is_main)
        self._signals = ExitStack()
        self._bar: Progress | None = None
        self._dashboard: Dashboard | None = None
        self._power: Sampler | None = None
        self._charts = dashboard and self.is_main and config.wandb.mode != "disabled"
        self._last: dict[str, float] = {}  # the newest value of each metric
        self._metrics: Metrics | None = None
        self._watch: Watch | None = None
        self.incidents: list[dict[str, Any]] = []
        self.found: dict[str, Any] = {}  # what else was measured of the model, for the next checkpoints' lineage
        self._resumes = False
        self.best = Best(config, self.folder, self.print)
        self.saver = Saver(self.best.published, self.print, self._gone, self._home.measured)
        try:
            # Rank 0 opens the folder; where that fails all raise the same error, none waits for it.
            distributed.fail_together(self._opened_or_why_not(type(settings), free) if self.is_main else "")
            self.incidents = distributed.broadcast_object(self.incidents)
            kernels.choose(config.kernels, distributed.broadcast_object(kernels.used()))
        except BaseException:
            self._home.close()
            raise

    def _opened_or_why_not(self, schema: type, free: Sequence[str]) -> UserError | str:
        """Open the folder on rank 0; return what the other ranks are to raise where that fails."""
        made_from = {**self._inputs, **{key: parent_hash(path) for key, path in self.parents.items()}}
        try:
            may_resume = partial(refuse_resume, schema, self.settings, self.data, self.parents, self.fixed)
            self._home.open(self.settings, schema, made_from, free, may_resume)
            self._metrics = Metrics(self.folder / METRICS)
            self.incidents = read_incidents(self.folder)
        except UserError as error:
            return UserError(str(error))
        except OSError as error:
            kind = DiskError if no_space(error) else UserError
            return kind(f"cannot write in {self.folder}: {error.strerror}")
        return ""

    def _gone(self) -> str:
        """Return what to say where the folder is no longer this run's: removed, replaced, or taken over (rank 0)."""
        if self._metrics is None or (self._metrics.in_place() and self._home.held()):
            return ""
        return f"{self.folder} was removed, replaced or taken over by another process: stopping this run"

    def __enter__(self) -> Run:
        """Watch for signals that ask to save and stop, and over the ranks; open the dashboard."""
        self._signals.enter_context(handling(self._stop_request.hear))
        try:
            if not self._stop_request.patient:
                end = partial(self._home.write_status, "stopped", self.step)
                self._signals.enter_context(heard_by_a_thread(self._stop_request, end))
            self._watch = watch.begin(self.folder, self.config.hang_minutes, self._home.fail)
            self._signals.enter_context(closing(self._watch))
            self._power = Sampler(self.folder)
            if preflight.asked(self.config.preflight):
                preflight.check(self.folder, self.print)
            if self._charts:
                wandb, name = self.config.wandb, self.config.name
                self._dashboard = Dashboard(wandb, self.folder, self._home.wandb_id, name, self.program, self.settings)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Record how the run ended. A launcher may end all ranks as soon as one has left: until then signals wait."""
        self._stop_request.patient = True
        lost = self._watch and self._watch.lost_rank(error)
        late = self.saver.close(error)
        try:
            self._close(lost or error or late)
        except (OSError, UserError) as found:
            late = late or found
        if self._dashboard is not None:
            self._dashboard.finish(failed=error is not None or late is not None)
        if isinstance(error, Stopped):
            distributed.barrier()
        self._signals.close()
        self._home.close()
        if any(e is not None and no_space(e) for e in (error, late)):
            where = f"{self.folder} ({size(shutil.disk_usage(self.folder).free)} free)"
            raise DiskError(f"no space left on the disk of {where}; its checkpoints are untouched") from None
        if (last := lost or (late if error is None else None)) is not None:
            raise last from None

    def _close(self, error: BaseException | None) -> None:
        gone = self._gone()
        if self._power is not None:
            self._power.close()
        if self._metrics is not None:
            self._metrics.close()  # first: a full disk shows here
        if gone and error is None:
            raise UserError(gone)
        if self.is_main and not gone:
            if error is None:
                self._home.write_status("done", self.step, self.best.stopped_early(self.step, self._home.total))
                if not (self.folder / "stage.json").exists():  # of a stage its pipeline tells the result
                    self.print(ending(self._then, self.folder, self._last | self.best.evaluated(), self.settings))
            elif isinstance(error, Stopped):
                self._home.write_status("stopped", self.step, str(error))
            else:
                self._home.write_status("failed", self.step, f"{type(error).__name__}: {error}".removesuffix(": "))

    def expect(self, total_steps: int) -> None:
        """Note how many steps the run will have, for who reads status.json."""
        self._home.total = total_steps
        if self.is_main:
            self._home.write_status("running", self.step)

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
        heartbeat.at_step(step)
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

    def log_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add what the model in training wrote, after the step logged last, to samples.jsonl and the dashboard (rank 0)."""
        if self._metrics is not None:
            self._metrics.log_samples(rows)
        if self._dashboard is not None:
            self._dashboard.show(rows)

    def stop_requested(self) -> bool:
        """Tell, on all ranks alike, whether a signal asked any of them to stop."""
        return distributed.any_rank(self._stop_request.signal is not None)

    def leave_if_asked(self) -> None:
        """Stop, all ranks together, where a signal asked to and there is nothing to save."""
        if self.stop_requested():
            self.stop(self.step, kept="nothing was saved")

    def interrupt(self) -> None:
        """Raise Interrupted on this rank where it heard a signal that asks to stop."""
        if self._stop_request.signal is not None:
            raise Interrupted

    def stop(self, step: int, kept: str = "saved") -> NoReturn:
        """Leave, all ranks together, after the step's checkpoint was saved, or else with what was `kept` in words."""
        self.saver.wait()
        self.step = step
        name = next(filter(None, distributed.gather_objects(self._stop_request.signal)), "stop")
        raise Stopped(f"{name} at step {step}; {kept} in {self.folder}. The same command resumes it")

    # --- checkpoints ---

    def resumes(self) -> bool:
        """Tell, on all ranks alike, whether `resume` will restore a checkpoint: weights need not be made before it does."""
        if self.is_main:
            manifest.clear(self.checkpoints)
        drop_stale(self.checkpoints, self.incidents)
        self._resumes = distributed.broadcast_object(bool(manifest.published(self.checkpoints)))
        return self._resumes

    def resume(self, engines: Mapping[str, Engine]) -> tuple[int, dict[str, Any]]:
        """Restore the newest checkpoint of this run into the engines; return its step and state, or (0, {})."""
        from . import checkpoint

        expected = self._resumes
        newest = checkpoint.latest(self.checkpoints) if self.resumes() else None
        if expected and newest is None:
            raise UserError(f"the checkpoints in {self.checkpoints} were removed as this run started: start it again")
        if self._metrics is not None:
            self._home.repeated += len(self._metrics.after(manifest.step_of(newest) if newest is not None else 0))
        if self._dashboard is not None:
            self._dashboard.summarise({"run/restarts": self._home.restarts, "run/repeated": self._home.repeated})
        step, state = (0, {}) if newest is None else self._restore(newest, engines)
        if self._metrics is not None and step == 0:
            self._metrics.cut(-1)  # not even step 0 stays, which is measured again
        if newest is not None:
            self.print("\n".join([f"resumed from {newest} at step {self.step}", *changes_since(newest, self.settings)]))
        return step, state

    def _restore(self, folder: Path, engines: Mapping[str, Engine]) -> tuple[int, dict[str, Any]]:
        from . import checkpoint

        state = checkpoint.restore(folder, engines)
        step = int(checkpoint.lineage(folder)["step"])
        for name, engine in engines.items():
            engine.state.set_step(int(state.get("updates", {}).get(name, step)))
        self.step = self.saved = step
        self.best.restore(state)
        if self._metrics is not None:
            self._metrics.cut(step)
            self._home.write_status("running", self.step)
        return step, state

    def logged_after(self, step: int) -> list[dict[str, Any]]:
        """Return the metrics of the steps after `step`, as they were logged (rank 0)."""
        assert self._metrics is not None
        return self._metrics.after(step)

    def save(
        self, step: int, engines: Mapping[str, Engine], tokenizer: Tokenizer, state: Mapping[str, Any] | None = None
    ) -> None:
        """Save a checkpoint of all engines (the first is the published model) and drop the oldest beyond `run.keep`.

        It is the state of now, written while training goes on (saver.py).
        """
        from .saving import Saving

        target = self.checkpoints / f"step_{step:08d}"
        evaluated = {key: value for key, value in self._last.items() if key.startswith("eval/")}
        more = {"incidents": len(self.incidents), "evaluated": evaluated, **self.found}
        known = lineage_of(self.program, step, self.settings, self.parents, self.data, more)
        if self._metrics is not None:
            self._metrics.flush()  # before the checkpoint: after a kill metrics.jsonl reaches at least as far as it
        distributed.fail_together(self._gone())
        # Not always `step`: PPO's iterations have several updates, and its policy waits while the critic warms up.
        updates = {name: engine.steps_done for name, engine in engines.items()}
        kept = {**(state or {}), **self.best.state(), "updates": updates}
        self.saver.save(Saving(target, engines, tokenizer, known, kept))
        self.step = self.saved = step
        if self.is_main:
            self._home.write_status("running", self.step)

    # --- rolling back ---

    def record(self, incident: dict[str, Any]) -> None:
        """Add a line to incidents.jsonl. From then on it holds, also for a killed run.

        `first_step` is the first of its steps, counted from 1: checkpoints with it that do not know of the incident are
        dropped by `go_back` and `resume`.
        """
        add_incident(self.folder, incident)
        self.incidents.append(incident)

    def go_back(self, engines: Mapping[str, Engine]) -> tuple[int, dict[str, Any]]:
        """Restore the newest checkpoint that the recorded incidents leave; return its step and state."""
        from . import checkpoint

        drop_stale(self.checkpoints, self.incidents)
        newest = checkpoint.latest(self.checkpoints)
        assert newest is not None, "`checkpoint_before` found one"
        return self._restore(newest, engines)

    def finish(self, step: int) -> None:
        """Point `final` at the last checkpoint, or where the run stopped early at the best."""
        self.saver.wait()
        self.step = step
        self.print(self.best.finish(step, self._home.total))
        distributed.barrier()
