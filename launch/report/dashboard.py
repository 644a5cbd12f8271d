"""A pipeline's report on wandb, in the group of its stages' runs: results and samples as tables, the page as an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamatrain.metrics import Shown, publish
from llamatrain.runs import is_number
from llamatrain.settings import WandbConfig
from llamatrain.yaml_files import read_yaml

from ..story import Story


def show(story: Story, mode: str, page: Path) -> bool:
    """Put a pipeline's report on wandb; tell whether that went well."""
    config = WandbConfig(**{**_of_stages(story), "mode": mode})
    models = {model: dict(_numbers(measured)) for model, measured in (story.evaluation.get("models") or {}).items()}
    metrics = list(dict.fromkeys(metric for numbers in models.values() for metric in numbers))
    results = [[model, *(numbers.get(metric) for metric in metrics)] for model, numbers in models.items()]
    samples = [
        ["adversarial" if adversarial else "harmless", messages[-1].get("content", "") if messages else ""]
        + [str(answers.get(model, {}).get("response", "")) for model in story.responses]
        for adversarial in (False, True)
        for messages, answers in story.side_by_side(adversarial)
    ]
    tables: dict[str, tuple[list[str], list[list[Any]]]] = {}
    if results:
        tables["results"] = (["model", *metrics], results)
    if samples:
        tables["samples_side_by_side"] = (["kind", "prompt", *story.responses], samples)
    last = list(models)[-1] if models else ""
    summary = {f"{last}/{metric}": value for metric, value in models.get(last, {}).items()}
    return publish(config, story.folder, story.name, Shown(tables, summary, page))


def _of_stages(story: Story) -> dict[str, Any]:
    """Return where the stages' own runs went: project, entity, group and tags."""
    found: dict[str, Any] = {"project": "llamatrain", "entity": None, "group": None, "tags": []}
    for stage in story.stages:
        path = stage.folder / "config.yaml"
        run = (read_yaml(path) or {}).get("run") if path.is_file() else None
        if isinstance(run, dict) and isinstance(run.get("wandb"), dict):
            found |= {key: run["wandb"][key] for key in found if key in run["wandb"]}
            break
    return {**found, "group": found["group"] or story.name}


def _numbers(measured: Any) -> Iterator[tuple[str, float]]:
    for metric, value in measured.items():
        number = value.get("mean") if isinstance(value, dict) else value
        if is_number(number):
            yield metric, number
