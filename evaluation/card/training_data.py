"""The training data in the card: what the corpus holds, its data card, and what each stage learned from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llamatrain.pages.parts import Card, Cell, Table
from llamatrain.runs import Row, is_number, read_json

from .pipeline import Pipeline, Stage, rows_of
from .sections import NOT_KNOWN, Field

# What each program learns from: its keys that name rows, and what they are.
LEARNS = {
    "sft": {"train": "dialogues"},
    "reward": {"train": "preferences", "mix": "mixed-in preferences"},
    "rejection_sampling": {"prompts": "prompts", "sft_train": "dialogues of fine-tuning"},
    "ppo": {"prompts": "prompts"},
}
PRONOUNS = {
    "she": "of gendered: she",
    "he": "of gendered: he",
    "unspecified": "of gendered: unspecified",
    "person": "any person",
    "first": "first person",
    "second": "second person",
    "third": "third person",
}


def corpus_folder(pipeline: Pipeline) -> Path | None:
    """Return the folder of the corpus that the model was pretrained on."""
    return next((path for stage in pipeline.of("pretrain") for path in stage.files("corpus")), None)


def _train_sources(pipeline: Pipeline) -> list[Row]:
    folder = corpus_folder(pipeline)
    found = read_json(folder / "train" / "manifest.json").get("sources") if folder else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def words_of_corpus(pipeline: Pipeline) -> str:
    """Return the corpus in a few words: its sources."""
    return ", ".join(str(one.get("name")) for one in _train_sources(pipeline))


def described(pipeline: Pipeline) -> Iterator[Field | Card]:
    """Yield the corpus by source, its data card, and what each stage learned from."""
    sources = _train_sources(pipeline)
    if sources:
        head = ["Source", "Licence", "Documents", "Tokens", "Share"]
        yield Card("Pretraining corpus", "", table=Table(head, [_source(one) for one in sources], numbers=2))
        yield from _data_card(pipeline)
    else:
        yield Field("Pretraining corpus", f"{NOT_KNOWN} It is not part of these runs.")
    rows = [row for stage in pipeline.stages for row in _learned(stage)]
    if rows:
        yield Card("Tuning data", "", table=Table(["Stage", "Learned from", "File", "Rows"], rows, numbers=3))


def _source(one: Row) -> list[Cell | str]:
    counts = [f"{one[key]:,}" if is_number(one.get(key)) else NOT_KNOWN for key in ("documents", "tokens")]
    share = f"{one['share']:.1%}" if is_number(one.get("share")) else NOT_KNOWN
    return [Cell(str(one.get("name")), strong=True), str(one.get("licence") or "not stated"), *counts, share]


def _learned(stage: Stage) -> Iterator[list[Cell | str]]:
    for key, what in LEARNS.get(stage.program, {}).items():
        for path in stage.files(key):
            rows = rows_of(path)
            yield [Cell(stage.name, strong=True), what, path.name, f"{rows:,}" if rows is not None else NOT_KNOWN]


def _data_card(pipeline: Pipeline) -> Iterator[Field | Card]:
    """Yield what the corpus's own data card says (paper 4.1, tables 9 and 10)."""
    folder = corpus_folder(pipeline)
    found = read_json(folder / "report" / "data_card.json") if folder else {}
    if not found:
        yield Field("Data card", "Not made: the corpus was built with `card.sample=0`, or the corpus's report is gone.")
        return
    of = "English documents" if found.get("english_only") else "documents"
    yield Field("Data card", f"Shares of {found.get('documents', 0):,} {of}, a random sample of those kept.")
    pronouns: list[list[Cell | str]] = [
        [PRONOUNS.get(name, name), _share(share)] for name, share in (found.get("pronouns") or {}).items()
    ]
    yield Card("Pronouns", "", table=Table(["Pronouns", "Share"], pronouns))
    terms: list[list[Cell | str]] = [
        [axis, ", ".join(f"{term} {share:.1%}" for term, share in one["top"].items()) or "none", _share(one["share"])]
        for axis, one in (found.get("identity") or {}).items()
    ]
    yield Card("Identity terms", "", table=Table(["Terms of", "Most frequent", "Share"], terms, numbers=2))
    if languages := found.get("languages"):
        rows: list[list[Cell | str]] = [[name, _share(share)] for name, share in languages.items()]
        yield Card("Languages", "", table=Table(["Language", "Share"], rows))
    toxicity = found.get("toxicity")
    yield Field(
        "Toxicity",
        f"By {toxicity['classifier']}: mean {toxicity['mean']:.4f}, {_share(toxicity['toxic'])} of documents at 0.5 or above."
        if toxicity
        else "Not measured (`corpus card.toxicity_classifier=FOLDER`).",
    )


def _share(value: object) -> str:
    return f"{value:.2%}" if is_number(value) else NOT_KNOWN
