"""The sections of a model card, in the order of Llama 2's own (paper A.7, table 52, and its repository's card).

What the runs know is taken from them, the rest is what people said; what neither did is named, not left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from llamatrain.energy import Rates, Use, formula, table
from llamatrain.pages.parts import Card, Cell, Table
from llamatrain.progress import counted, duration

from . import measured, training_data
from .measured import Found
from .pipeline import BASE, CHATS, Pipeline, Stage
from .sections import NOT_KNOWN, NOT_STATED, Field, Section, said
from .words import Model, Words

WAYS = {
    "pretrain": "pretraining",
    "sft": "supervised fine-tuning (SFT)",
    "rejection_sampling": "rejection sampling",
    "ppo": "proximal policy optimization (PPO)",
}


@dataclass(frozen=True)
class Source:
    """What the card is made from; without a run all figures are those that people state."""

    words: Words
    pipeline: Pipeline | None
    stage: Stage | None
    rates: Rates
    results: list[Found]

    @property
    def name(self) -> str:
        """The model's name."""
        if self.words.name:
            return self.words.name
        return f"{self.pipeline.name} {self.stage.name}" if self.pipeline and self.stage else NOT_STATED.rstrip(".")

    @property
    def summary(self) -> str:
        """The card's first words: what people say, else what the runs know."""
        if self.words.summary or self.stage is None:
            return self.words.summary or ""
        kind = "chat model" if self.stage.program in CHATS else "pretrained language model"
        size = f" of {short(self.stage.parameters)} parameters" if self.stage.parameters else ""
        return f"A {kind}{size}, trained with llamatrain."

    @property
    def trained(self) -> list[Stage]:
        """The stages that made language models, up to the card's own."""
        models = self.pipeline.models if self.pipeline else []
        return models[: models.index(self.stage) + 1] if self.stage else []


def sections(source: Source) -> list[Section]:
    """Return the whole card."""
    return [
        Section("details", "Model details", list(_details(source))),
        Section("use", "Intended use", list(_use(source))),
        Section("hardware", "Hardware and software", list(_hardware(source))),
        Section("data", "Training data", list(_data(source))),
        Section("evaluation", "Evaluation results", list(_evaluation(source))),
        Section("limits", "Ethical considerations and limitations", [said("Limits", source.words.limits)]),
        Section("contact", "Reporting issues", [said("Contact", source.words.contact)]),
    ]


# --- details -----------------------------------------------------------------------------------------------------


def _details(source: Source) -> Iterator[Field | Card]:
    words = source.words
    yield said("Model developers", words.developers)
    yield said("Variations", words.variations or _variations(source))
    yield Field("Input", "Text.")
    yield Field("Output", "Text.")
    yield said("Model architecture", words.architecture or _architecture(source))
    yield Card("Sizes", "", table=Table(HEAD, [*_sizes(source), *map(_stated_size, words.models)], numbers=2))
    yield said("Model dates", words.dates or _dates(source))
    yield said("Status", words.status)
    yield said("License", _license(words))
    yield said("Research paper or page", words.paper)
    yield said("Languages", ", ".join(words.languages))


def _variations(source: Source) -> str:
    if not source.trained:
        return ""
    kinds = {"pretrained": BASE, "fine-tuned": CHATS}
    told = [
        f"{', '.join(names)} ({kind})"
        for kind, programs in kinds.items()
        if (names := [stage.name for stage in source.trained if stage.program in programs])
    ]
    own = f" This card is of {source.stage.name}." if source.stage else ""
    return f"Of one pipeline: {'; '.join(told)}.{own}"


def _architecture(source: Source) -> str:
    if source.stage is None:
        return ""
    model = source.stage.model
    shape = f"{model.get('num_hidden_layers')} layers of width {model.get('hidden_size'):,}, a vocabulary of {model.get('vocab_size'):,}"
    ways = dict.fromkeys(WAYS[stage.program] for stage in source.trained if stage.program in WAYS)
    rounds = sum(stage.program == "rejection_sampling" for stage in source.trained)
    more = f" in {counted(rounds, 'round')} of comparisons" if rounds > 1 else ""
    return f"An auto-regressive transformer of the Llama 2 architecture ({shape}), made by {', '.join(ways)}{more}."


HEAD = ["Model", "Training data", "Params", "Context", "GQA", "Tokens", "LR"]


def _sizes(source: Source) -> Iterator[list[Cell | str]]:
    """Yield the model's row: what it was pretrained on, where that was part of the runs."""
    if source.stage is None or source.pipeline is None:
        return
    model, base = source.stage.model, next(iter(source.pipeline.of("pretrain")), None)
    tokens = steps_tokens(base) if base else 0
    heads, groups = model.get("num_attention_heads"), model.get("num_key_value_heads")
    corpus = training_data.words_of_corpus(source.pipeline) or NOT_STATED
    yield [
        Cell(source.name, strong=True),
        corpus,
        short(source.stage.parameters) if source.stage.parameters else NOT_KNOWN,
        f"{model.get('max_position_embeddings'):,}",
        "no" if heads == groups else f"yes, {groups} groups",
        short(tokens) if tokens else f"{NOT_KNOWN} It was pretrained elsewhere.",
        f"{base.config.get('optim.lr'):g}" if base else NOT_KNOWN,
    ]


def _stated_size(model: Model) -> list[Cell | str]:
    gqa = NOT_STATED if model.gqa is None else "yes" if model.gqa else "no"
    others = (model.data, model.parameters, model.context, gqa, model.tokens, model.lr)
    return [Cell(model.name, strong=True), *(text or NOT_STATED for text in others)]


def steps_tokens(stage: Stage) -> int:
    """Return on how many tokens a model was pretrained."""
    step, batch = stage.status.get("step"), stage.config.get("batch_tokens")
    return step * batch if isinstance(step, int) and isinstance(batch, int) else 0


def short(number: float) -> str:
    """Write a large number for people: 1.43M, 2.00T, 820."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:,.0f}"


def _dates(source: Source) -> str:
    stages = source.pipeline.stages if source.pipeline else []
    begun = [stage.status["started"] for stage in stages if stage.status.get("started")]
    ended = [stage.status["updated"] for stage in stages if stage.status.get("updated")]
    if not begun or not ended:
        return ""
    first, last = (f"{datetime.fromtimestamp(time):%-d %B %Y}" for time in (min(begun), max(ended)))
    return f"Trained on {first}." if first == last else f"Trained between {first} and {last}."


def _license(words: Words) -> str:
    named = words.license_name or words.license
    if not named:
        return ""
    link = f" ({words.license_link})" if words.license_link else ""
    return f"{named}{link}.{' Its text is in LICENSE.' if words.license_file else ''}"


# --- the rest ----------------------------------------------------------------------------------------------------


def _use(source: Source) -> Iterator[Field | Card]:
    yield said("Intended use cases", source.words.intended_use)
    yield said("Out-of-scope uses", source.words.out_of_scope)
    if source.stage is not None and source.stage.program in CHATS:
        how = "The chat model expects the format of the chat template in tokenizer_config.json, that of Llama 2-Chat."
        yield Field("Prompt format", how)


def uses(source: Source) -> list[Use] | None:
    """Return the devices' hours, of the runs and as stated; None where a GPU's power is not known."""
    own = source.pipeline.uses(source.rates) if source.pipeline else []
    stated = [
        Use(model.name, "GPU", model.gpu_hours, model.gpu_watts)
        for model in source.words.models
        if model.gpu_hours and model.gpu_watts
    ]
    return None if own is None else [*own, *stated]


def _hardware(source: Source) -> Iterator[Field | Card]:
    words, stages = source.words, source.pipeline.stages if source.pipeline else []
    environments = [one for stage in stages if (one := stage.status.get("environment"))]
    machines = dict.fromkeys(
        str(one.get("gpu") or f"{one.get('processor')} ({counted(one.get('cores') or 1, 'core')})")
        for one in environments
    )
    packages = ("llamatrain", "torch", "deepspeed", "python")
    versions = dict.fromkeys(", ".join(f"{name} {one.get(name)}" for name in packages) for one in environments)
    if environments:
        yield Field(
            "Machines",
            f"{'; '.join(machines)}, {duration(sum(stage.status.get('seconds') or 0 for stage in stages))} in all stages.",
        )
        yield Field("Software", f"{'; '.join(versions)}.")
    yield said("Training factors", words.factors)
    yield from _carbon(source)
    yield said("Where the machines stood", words.region)
    yield said("Offset", words.offset)


def _carbon(source: Source) -> Iterator[Field | Card]:
    found, rates = uses(source), source.rates
    if not found:
        why = NOT_STATED if found == [] else f"{NOT_KNOWN} The power of a GPU is not known (rates.gpu_watts)."
        yield Field("Carbon footprint", why)
        return
    rows = table(found, rates)
    cells: list[list[Cell | str]] = [[Cell(row[0], strong=True), *row[1:]] for row in rows[1:]]
    measured_ = sum(use.measured for use in found)
    power = (
        "measured"
        if measured_ == len(found)
        else "as the devices state it"
        if not measured_
        else "measured, or as stated"
    )
    note = f"Carbon is {formula(rates)}; power is {power}. Only the devices that compute are counted: no other parts of the servers, no network, no manufacture."
    yield Field("Carbon footprint", note)
    yield Card("Energy and carbon", "", table=Table(rows[0], cells))


def _data(source: Source) -> Iterator[Field | Card]:
    yield said("Overview", source.words.data)
    if source.pipeline is not None:
        yield from training_data.described(source.pipeline)
    yield said("Data freshness", source.words.freshness)


def _evaluation(source: Source) -> Iterator[Field | Card]:
    for one in source.results:
        if words := INTRODUCTIONS.get(one.program):
            yield Field(*words)
        yield from one.tables
    if (accuracy := measured.reward_models(source.pipeline)) is not None:
        yield accuracy
    for figures in source.words.tables:
        rows: list[list[Cell | str]] = [[Cell(str(row[0]), strong=True), *map(str, row[1:])] for row in figures.rows]
        note = f"{figures.note} Stated by the developers.".strip()
        yield Card(figures.title, note, table=Table(figures.head, rows))
    there = {one.program for one in source.results}
    lacking = [f"{words} (`llamatrain {program}`)" for program, words in EXPECTED.items() if program not in there]
    if lacking:
        more = " What is stated above was measured elsewhere." if source.words.tables else ""
        yield Field("Not measured by these runs", f"{'; '.join(lacking)}.{more}")


EXPECTED = {
    "evaluate": "scores, win rates and perplexity on held-out data",
    "benchmark": "academic benchmarks",
    "safety_benchmark": "automatic safety benchmarks",
    "probe": "probes of what the model knows of time and tools",
    "ratings": "human evaluation",
}
INTRODUCTIONS = {
    "evaluate": (
        "Held-out prompts",
        "What the models answer to prompts that no training saw. Ranges are 95 % confidence intervals.",
    ),
}


def license_file(words: Words, beside: Path | None) -> Path | None:
    """Return the file with the licence's text: beside card.yaml where it is not absolute."""
    if not words.license_file:
        return None
    return (beside.parent if beside else Path()) / words.license_file
