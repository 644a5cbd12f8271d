"""The card's metadata as the hub reads it: licence, tags, results, carbon (`huggingface_hub.ModelCardData`)."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from llamatrain.energy import tonnes_co2

from .contents import Source, uses
from .measured import Result
from .pipeline import CHATS

TAGS = ["llamatrain", "llama"]


def metadata(source: Source) -> ModelCardData:
    """Return what stands above the card: only what is known or said."""
    words, tuned = source.words, source.stage is not None and source.stage.program in CHATS
    results = [
        EvalResult(
            task_type=one.task,
            task_name="Text generation",
            dataset_type=one.dataset.replace(" ", "-"),
            dataset_name=f"{source.pipeline.name}: {one.dataset}" if source.pipeline else one.dataset,
            metric_type=one.metric,
            metric_name=one.metric.replace("_", " "),
            metric_value=round(one.value, 6),
            metric_args=_interval(one),
        )
        for found in source.results
        for one in found.results
    ]
    data = ModelCardData(
        model_name=source.name if results else None,
        eval_results=results or None,
        language=words.languages or None,
        license=words.license,
        license_name=words.license_name,
        license_link=words.license_link,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys([*TAGS, *(["conversational", "rlhf"] if tuned else []), *words.tags])),
        datasets=words.datasets or None,
        base_model=words.base_model,
    )
    if carbon := _carbon(source):
        data["co2_eq_emissions"] = carbon
    return data


def _interval(one: Result) -> dict[str, float | int | None] | None:
    if one.low is None or one.high is None:
        return None
    return {"low": round(one.low, 6), "high": round(one.high, 6), "count": one.count}


def _carbon(source: Source) -> dict[str, Any]:
    """Return the emissions in grams, of all that the card lists."""
    found, rates = uses(source), source.rates
    if not found:
        return {}
    grams = sum(tonnes_co2(use.kwh, rates.pue, rates.carbon_intensity) for use in found) * 1e6
    hours = {device: sum(use.hours for use in found if use.device == device) for device in ("GPU", "core")}
    told = {
        "emissions": round(grams, 3),
        "source": "llamatrain: device hours x power x PUE x carbon intensity",
        "training_type": "pre-training and fine-tuning",
        "geographical_location": source.words.region,
        "hardware_used": ", ".join(f"{time:,.3f} {device} hours" for device, time in hours.items() if time),
    }
    return {key: value for key, value in told.items() if value is not None}
