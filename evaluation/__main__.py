"""Compare models: perplexity, reward scores, judgements, differences and win rates with 95 % intervals (paper 3.4).

Reads what other programs wrote: checkpoints, responses (`sample`), judgements (`judge`). The headline of every metric
is its mean over all prompts; harmless and unsafe prompts follow apart. The samples of a prompt are averaged first;
intervals are Student's t over prompts, for differences over the prompts both models answered, and Wilson's for win
rates (ties removed and counted, several samples a prompt allowed for).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from llamatrain import checkpoint, config
from llamatrain.data.rows import write_json
from llamatrain.engine import DTYPES
from llamatrain.errors import UserError
from llamatrain.run import Run, RunConfig

from .measures import measure, report
from .perplexity import held_out, perplexity
from .tables import tables


@dataclass
class ModelSource:
    """What there is of one model; any part may be absent."""

    checkpoint: str | None = None
    responses: str | None = None
    judgements: str | None = None


@dataclass
class EvaluateConfig:
    """What is measured; configs/evaluate.yaml says what each key means."""

    run: RunConfig
    models: dict[str, ModelSource]
    baseline: str | None
    tie: float
    corpus: str | None
    corpus_windows: int | None
    isolate_documents: bool
    micro_batch_size: int
    dtype: str

    def __post_init__(self) -> None:
        """Check that there is something to measure."""
        names = list(self.models)
        if not names:
            raise UserError(
                "models={}: need at least one, as models={sft: {checkpoint: ..., responses: ..., judgements: ...}}"
            )
        for name, source in self.models.items():
            if not (source.responses or source.judgements or (source.checkpoint and self.corpus)):
                raise UserError(f"models.{name}: need responses, judgements, or a checkpoint and corpus")
        if self.baseline is not None and self.baseline not in names:
            raise UserError(f"baseline={self.baseline}: need one of {', '.join(names)}")
        if self.tie < 0:
            raise UserError(f"tie={self.tie}: need 0 or more")
        if self.corpus and not any(source.checkpoint for source in self.models.values()):
            raise UserError(f"corpus={self.corpus}: need a checkpoint in one of the models to measure on it")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype}: need one of {', '.join(DTYPES)}")
        if self.micro_batch_size < 1:
            raise UserError(f"micro_batch_size={self.micro_batch_size}: need 1 or more")


def evaluate(cfg: EvaluateConfig) -> None:
    """Compare models."""
    sources = {name: source.checkpoint for name, source in cfg.models.items() if cfg.corpus and source.checkpoint}
    parents = {name: checkpoint.resolve(path) for name, path in sources.items()}
    with Run(cfg.run, "evaluate", cfg, parents=parents) as run:
        measured = {name: measure(source.responses, source.judgements) for name, source in cfg.models.items()}
        found = report(measured, cfg.baseline, cfg.tie)
        for name, folder in parents.items():
            found["models"][name] |= on_corpus(cfg, name, folder, run)
        if run.is_main:
            write_json(run.folder / "evaluation.json", found)
            for table in tables(found):
                Console().print(table)
        run.log(0, flat(found))


def on_corpus(cfg: EvaluateConfig, name: str, folder: Path, run: Run) -> dict[str, float]:
    """Return a checkpoint's loss, perplexity and bits per byte on the corpus."""
    assert cfg.corpus is not None
    run.print(f"perplexity of {name} on {cfg.corpus}")
    corpus, dtype = held_out(cfg.corpus), DTYPES[cfg.dtype]
    return perplexity(folder, corpus, cfg.micro_batch_size, cfg.isolate_documents, cfg.corpus_windows, dtype)


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Return all means and differences as numbers for metrics.jsonl: <model>/<metric>,
    <model>/<metric>_over_<baseline>.
    """
    numbers = {}
    for name, means in found["models"].items():
        for metric, value in means.items():
            numbers[f"{name}/{metric}"] = value["mean"] if isinstance(value, dict) else value
    for row in found["comparisons"]:
        numbers[f"{row['model']}/{row['metric']}_over_{row['baseline']}"] = row["difference"]
    return numbers


if __name__ == "__main__":
    config.main("evaluate", EvaluateConfig, evaluate)
