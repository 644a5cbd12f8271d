"""The data card: what the text of a corpus is like (paper 4.1 and A.4.3): pronouns, identity terms, languages, toxicity.

Counted are documents, not words, in a random sample of those that are kept; English ones where languages are detected
(`languages.identify`), all of them otherwise. Nothing is filtered by what is found here: the paper found it useful to
know, and harmful to remove.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain.data.order import GOLDEN, scramble

Numbers = NDArray[np.int64]

# Table 9a's lists.
PRONOUNS = {
    "she": "she her hers herself",
    "he": "he him his himself",
    "unspecified": "they them their theirs theirself themself themselves",
    "first": "i me my mine myself we us our ours ourselves",
    "second": "you your yours yourself yourselves",
    "it": "it its itself",
}
GENDERED, THIRD, PERSON = ("she", "he", "unspecified"), ("she", "he", "unspecified", "it"), ("first", "second", "third")

# Descriptors of HolisticBias' five axes, as far as table 9b goes and somewhat beyond; words with several meanings
# (straight, white, black, ...) are left out, as there.
IDENTITY = {
    "gender and sex": "female male feminine masculine transgender nonbinary cisgender intersex genderqueer androgynous",
    "sexual orientation": "gay lesbian lgbt lgbtq lgbtqia queer bisexual asexual homosexual heterosexual pansexual",
    "nationality": "american indian chinese korean mexican british german french japanese italian spanish russian canadian "
    "australian irish vietnamese filipino pakistani nigerian brazilian polish",
    "race and ethnicity": "european african asian latin indigenous hispanic latino latina latinx arab caucasian biracial "
    "multiracial aboriginal inuit",
    "religion": "christian religious spiritual catholic jewish muslim buddhist hindu sikh atheist agnostic mormon "
    "protestant orthodox secular",
}
_PRONOUNS = {name: frozenset(words.split()) for name, words in PRONOUNS.items()}
_IDENTITY = {axis: frozenset(words.split()) for axis, words in IDENTITY.items()}
_TERMS = frozenset().union(*_IDENTITY.values())
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Sampled:
    """Which documents the card looks at, and where their languages stand (`languages` None: not detected)."""

    share: float
    languages: Path | None = None

    def of(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Tell which of some documents it looks at."""
        chosen = sampled(numbers, self.share)
        if self.languages is not None:
            chosen &= np.load(self.languages, mmap_mode="r")[numbers]
        return chosen


@dataclass
class Counts:
    """Documents by what they hold."""

    documents: int = 0
    pronouns: Counter[str] = field(default_factory=Counter)
    axes: Counter[str] = field(default_factory=Counter)
    terms: Counter[str] = field(default_factory=Counter)

    def content(self) -> dict[str, Any]:
        """Return the counts as JSON may hold them."""
        return {
            "documents": self.documents,
            "pronouns": dict(self.pronouns),
            "axes": dict(self.axes),
            "terms": dict(self.terms),
        }


def sampled(numbers: Numbers, share: float) -> NDArray[np.bool_]:
    """Tell which documents are in a random sample of this share: a function of their number alone."""
    mixed = scramble((numbers + 1).astype(np.uint64) * np.uint64(GOLDEN))  # 0 would stay 0
    return (mixed >> np.uint64(40)) < np.uint64(round(share * (1 << 24)))


def count(counts: Counts, numbers: Numbers, texts: Sequence[str], which: Sampled) -> None:
    """Count the sampled ones of some documents."""
    if not which.share:
        return
    for place in np.flatnonzero(which.of(numbers)).tolist():
        words = set(_WORD.findall(texts[place].lower()))
        counts.documents += 1
        held = {name for name, listed in _PRONOUNS.items() if not listed.isdisjoint(words)}
        # Each from the ones before it: `third` is one of the persons.
        for name, members in (("gendered", GENDERED), ("third", THIRD), ("person", PERSON)):
            if held & set(members):
                held.add(name)
        counts.pronouns.update(held)
        terms = words & _TERMS
        if terms:
            counts.terms.update(terms)
            counts.axes.update(axis for axis, listed in _IDENTITY.items() if not listed.isdisjoint(terms))


def describe(counted: Sequence[dict[str, Any]], languages: Counter[str] | None, english: bool) -> dict[str, Any]:
    """Return the card's tables from the counts of all pieces, as shares of documents."""
    documents = sum(part["documents"] for part in counted)
    totals = {
        key: sum((Counter(part[key]) for part in counted), Counter[str]()) for key in ("pronouns", "axes", "terms")
    }
    pronouns = {
        name: totals["pronouns"][name] / max(documents, 1)
        for name in ("gendered", "she", "he", "unspecified", "person", "first", "second", "third")
    }
    for name in GENDERED:  # table 9a: within the documents that hold any gendered pronoun
        pronouns[name] = totals["pronouns"][name] / max(totals["pronouns"]["gendered"], 1)
    axes = {}
    for axis, listed in _IDENTITY.items():
        held, terms = totals["axes"][axis], totals["terms"]
        ranked = sorted((term for term in listed if terms[term]), key=lambda term: (-terms[term], term))
        # A term's share is of the documents that hold any of its axis (table 9b).
        axes[axis] = {"share": held / max(documents, 1), "top": {term: terms[term] / held for term in ranked[:5]}}
    found: dict[str, Any] = {"documents": documents, "english_only": english, "pronouns": pronouns, "identity": axes}
    if languages is not None:
        total = max(languages.total(), 1)
        found["languages"] = {name: number / total for name, number in languages.most_common()}
    return found


def toxicity(classifier: str, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Return the card's figures from the documents' scores."""
    return {
        "classifier": classifier,
        "documents": len(scores),
        "mean": float(np.mean(scores)) if len(scores) else 0.0,
        "toxic": float(np.mean(scores >= 0.5)) if len(scores) else 0.0,
    }


def as_markdown(card: dict[str, Any]) -> str:
    """Return the card as a page."""
    of = "English documents" if card["english_only"] else "documents"
    lines = [
        "# Data card",
        "",
        f"A random sample of {card['documents']:,} {of} among those kept. Shares of documents (paper A.4.3, tables 9 and 10).",
        "",
        "| pronouns | share |",
        "|---|---|",
    ]
    names = {
        "she": "of these: she",
        "he": "of these: he",
        "unspecified": "of these: unspecified",
        "person": "any person",
    }
    lines += [f"| {names.get(name, name)} | {share:.2%} |" for name, share in card["pronouns"].items()]
    lines += ["", "| identity terms | share | most frequent |", "|---|---|---|"]
    for axis, found in card["identity"].items():
        top = ", ".join(f"{term} {share:.1%}" for term, share in found["top"].items())
        lines.append(f"| {axis} | {found['share']:.2%} | {top} |")
    if "languages" in card:
        lines += ["", "| language | share |", "|---|---|"]
        lines += [f"| {name} | {share:.3%} |" for name, share in card["languages"].items()]
    if "toxicity" in card:
        found = card["toxicity"]
        lines += [
            "",
            f"Toxicity by {found['classifier']}: mean {found['mean']:.4f}, {found['toxic']:.2%} of {found['documents']:,} "
            "sampled documents at 0.5 or above (a document's score is the mean of its lines').",
        ]
    return "\n".join(lines) + "\n"
