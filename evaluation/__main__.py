"""Compare models: perplexity, reward scores, judgements, differences and win rates with 95 % intervals (paper 3.4).

Reads what other programs wrote: checkpoints, responses (`sample`), judgements (`judge`). The headline of every metric
is its mean over all prompts; harmless and adversarial prompts follow separately. The samples of a prompt are averaged first;
intervals are Student's t over prompts, for differences over the prompts both models answered, and Wilson's for win
rates (ties removed and counted, allowing for several samples per prompt).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from llamatrain import atomic, checkpoint
from llamatrain.config.program import main
from llamatrain.data.skipped import BadRows
from llamatrain.engine.zero import DTYPES
from llamatrain.inputs import fingerprints
from llamatrain.run import Run

from .config import EvaluateConfig
from .measures import measure, recalled, report
from .perplexity import held_out, perplexity
from .tables import tables


def evaluate(cfg: EvaluateConfig) -> None:
    """Compare models."""
    # Checkpoints are opened for their perplexity alone: without a corpus they need not be there any more.
    sources = {name: source.checkpoint for name, source in cfg.models.items() if cfg.corpus and source.checkpoint}
    parents = {name: checkpoint.resolve(path) for name, path in sources.items()}
    with Run(cfg.run, "evaluate", cfg, parents=parents, inputs=fingerprints(cfg)) as run:
        bad = BadRows(cfg.bad_rows)
        measured = {
            name: measure(source.responses, source.judgements, not is_base(source.checkpoint), bad)
            for name, source in cfg.models.items()
        }
        bad.say(run.print)
        found = report(measured, cfg.baseline, cfg.tie)
        for name, source in cfg.models.items():
            found["models"][name] |= recalled(source.recall) if source.recall else {}
        for name, folder in parents.items():
            found["models"][name] |= on_corpus(cfg, name, folder, run)
        if run.is_main:
            atomic.write_json(run.folder / "evaluation.json", found)
            for table in tables(found):
                Console().print(table)
        run.log(0, flat(found))


def is_base(path: str | None) -> bool:
    """Whether a checkpoint is a pretrained model's: reward models saw only what fine-tuned models answer.

    Their scores of its responses would be compared with scores that mean something.
    """
    if path is None:
        return False
    folder = checkpoint.resolve(path)
    return (folder / "llamatrain.json").is_file() and checkpoint.lineage(folder).get("program") == "pretrain"


def on_corpus(cfg: EvaluateConfig, name: str, folder: Path, run: Run) -> dict[str, float]:
    """Return a checkpoint's loss, perplexity and bits per byte on the corpus."""
    assert cfg.corpus is not None
    run.print(f"perplexity of {name} on {cfg.corpus}")
    corpus, dtype = held_out(cfg.corpus), DTYPES[cfg.dtype]
    return perplexity(
        folder,
        corpus,
        cfg.micro_batch_size,
        cfg.isolate_documents,
        cfg.corpus_sequences,
        dtype,
        tokenizer=cfg.tokenizer,
        on_batch=run.leave_if_asked,
    )


def flat(found: dict[str, Any]) -> dict[str, float]:
    """Return all means and differences as numbers for metrics.jsonl: <model>/<metric>,
    <model>/<metric>_over_<baseline>; of what holds for one kind of prompt alone, the rank correlations.
    """
    numbers = {}
    for name, means in found["models"].items():
        for metric, value in means.items():
            numbers[f"{name}/{metric}"] = value["mean"] if isinstance(value, dict) else value
    for part in found["by_kind"].values():
        for name, means in part["models"].items():
            agreement = {metric: value for metric, value in means.items() if metric.startswith("spearman_")}
            numbers |= {f"{name}/{metric}": value["mean"] for metric, value in agreement.items()}
    for row in found["comparisons"]:
        numbers[f"{row['model']}/{row['metric']}_over_{row['baseline']}"] = row["difference"]
    return numbers


if __name__ == "__main__":
    main("evaluate", EvaluateConfig, evaluate)
