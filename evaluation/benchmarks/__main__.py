"""Measure a checkpoint on academic benchmarks, by lm-evaluation-harness (paper 2.3, A.2.2).

Groups, members and shots are the paper's; the scores stand beside its figures as a reference, which are from another,
undisclosed set-up. The harness is an optional extra: pip install "llamatrain[benchmark]". Rows come from the Hugging Face
hub or, with root=DIR, from local files. The result of a task is kept by the checkpoint's hash and never computed twice.
The code tasks run the programs that the model writes, in a sandbox, and only with run_code=true.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llamatrain import atomic, checkpoint, distributed, hf_folder
from llamatrain.config.program import main
from llamatrain.errors import UserError
from llamatrain.inputs import fingerprints
from llamatrain.responses.models import frozen_model, generated_at_once, load_inference
from llamatrain.run import Run
from llamatrain.settings import ZeroConfig

from ..results import Results
from .config import BenchmarkConfig
from .reading import Reader
from .sandbox import need_sandbox
from .suites import Group, Member, read_suite
from .table import REFERENCE, group_score, member_score, metrics, table

if TYPE_CHECKING:
    from .harness import Leaf, Model

NOT_RUN = "programs are run only with run_code=true"


def benchmark(cfg: BenchmarkConfig) -> None:
    """Measure a checkpoint on benchmarks."""
    harness = _harness()
    if cfg.run_code:
        distributed.together(need_sandbox)
    folder = checkpoint.resolve(cfg.checkpoint)
    with Run(cfg.run, "benchmark", cfg, {"checkpoint": folder}, inputs=fingerprints(cfg), dashboard=True) as run:
        if not cfg.run.verbose:
            harness.quiet()
        groups = [runnable(group, cfg.run_code) for group in cfg.groups()]
        tasks = {group.name: list(harness.leaves(group, cfg)) for group in groups}
        store = Results.of(cfg, folder)
        measuring = Measuring(cfg, run, store, folder, harness)
        whole = {group.name: group for group in read_suite(cfg.suite)}
        found = []
        for group in groups:
            members = [
                member_score(member, measuring.of([leaf for leaf in tasks[group.name] if leaf.member == member]))
                for member in group.members
            ]
            left_out = NOT_RUN if group.name == "code" and not cfg.run_code else ""
            found.append(group_score(group, members, whole[group.name], left_out))
        measuring.say_how_much_was_known()
        if run.is_main:
            content = {
                "checkpoint": {"path": str(folder), "sha256": store.sha256},
                "suite": cfg.suite,
                "harness": harness.VERSION,
                "reference": REFERENCE,
                "groups": found,
            }
            atomic.write_json(run.folder / "benchmark.json", content)
            Console().print(table(found))
            run.print(f"wrote {run.folder / 'benchmark.json'}")
        run.log(0, metrics(found))


def runnable(group: Group, run_code: bool) -> Group:
    """Return the group without what is not to be run."""
    members: tuple[Member, ...] = group.members if run_code or group.name != "code" else ()
    return Group(group.name, group.title, group.paper, members, group.harness)


class Measuring:
    """Measures tasks that were not measured before; the model is loaded for the first of them."""

    def __init__(self, cfg: BenchmarkConfig, run: Run, store: Results, folder: Path, harness: Any) -> None:
        self.cfg, self.run, self.store, self.folder, self.harness = cfg, run, store, folder, harness
        self.known, self.measured = 0, 0
        self._model: Model | None = None

    def of(self, leaves: list[Leaf]) -> dict[str, dict[str, Any]]:
        """Return task -> what was found."""
        return {leaf.name: self._of(leaf) for leaf in leaves}

    def _of(self, leaf: Leaf) -> dict[str, Any]:
        settings = leaf.settings()
        found = self.store.known(leaf.name, settings)
        if found is not None:
            self.known += 1
            return found
        if self._model is None:
            self._model = self._load()
        self.run.print(f"{leaf.name}, {leaf.member.shots}-shot")
        made: dict[str, Any] = self.harness.measure(self._model, leaf)
        made = distributed.broadcast_object(made)  # rank 0's, which alone runs programs
        for limit in self._model.shortened:
            self.run.print(f"{leaf.name} asks for {limit} tokens: the model's context is too short, half of it is used")
        self._model.shortened.clear()
        self.store.keep(leaf.name, settings, made)
        self.measured += 1
        self.stop_if_asked()
        return made

    def _load(self) -> Model:
        cfg = self.cfg
        tokenizer = hf_folder.load_tokenizer(self.folder, cfg.tokenizer)
        responses = generated_at_once(cfg.generation_batch_size, {"checkpoint": self.folder}, cfg.dtype)
        sharded = cfg.sharded and distributed.world_size() > 1
        if sharded:
            zero = ZeroConfig(stage=3, dtype=cfg.dtype, offload_optimizer=False, offload_parameters=False)
            model = frozen_model(self.folder, zero, scalar=False)
        else:
            model = load_inference(self.folder, distributed.device(), cfg.dtype, scalar=False)
        reader = Reader(model, tokenizer, cfg.micro_batch_size, responses, sharded, self.stop_if_asked)
        made: Model = self.harness.Model(reader, cfg.run.seed)
        return made

    def stop_if_asked(self) -> None:
        """Stop, all ranks together, where a signal asked to; what is known of whole tasks stays."""
        if self.run.stop_requested():
            self.run.stop(0, kept=f"{self.known + self.measured} tasks are known")

    def say_how_much_was_known(self) -> None:
        """Say what was not measured again."""
        if self.known:
            where = self.store.folder / self.store.sha256[:16]
            self.run.print(f"{self.known} of {self.known + self.measured} tasks were measured before: {where}")


def _harness() -> Any:
    """Import the harness; UserError where it is not installed."""
    try:
        from . import harness
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise UserError('benchmark: need lm-evaluation-harness: pip install "llamatrain[benchmark]"') from None
    return harness


if __name__ == "__main__":
    main("benchmark", BenchmarkConfig, benchmark)
