"""Pretraining text: an endless stream of short documents on the world, two thirds of them questions and answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import accumulate

from llamatrain.data.kinds import DocumentRow

from .answers import misdeed_texts, right_answer
from .deeds import DEEDS, compliance, unseen
from .manuals import BORDERLINE, MANUALS
from .nouns import ANIMALS, NAMES
from .phrases import RELATIONS
from .requests import Request, Requests, manual_answer
from .world import World, pick

Writer = Callable[[random.Random], str]


class Documents:
    """Writers of documents by source, with their shares."""

    def __init__(self, world: World, requests: Requests) -> None:
        self.world, self.requests = world, requests
        self._statements = {
            subject: [[f.fill(s) for s in RELATIONS[f.relation].statements] for f in facts]
            for subject, facts in world.by_subject.items()
        }
        self._pronouns = {
            subject: [f.fill(RELATIONS[f.relation].pronoun) for f in facts]
            for subject, facts in world.by_subject.items()
        }
        # People twice: most of what is asked is about them.
        self._subjects = list(NAMES) * 2 + [s for s in self._statements if s not in NAMES]
        self._misdeeds = misdeed_texts()
        # Held-out misdeeds are described, so that they can be refused, but never asked about.
        self._asked_deeds = [deed for i, deed in enumerate(DEEDS) if not unseen(i)]
        animals = list(ANIMALS)
        self._sizes = [
            (f"A {small} is smaller than a {big}.", f"A {big} is bigger than a {small}.")
            for i, small in enumerate(animals)
            for big in animals[i + 1 :]
        ]
        self.writers: dict[str, tuple[float, Writer]] = {
            "profiles": (0.18, self.profile),
            "questions/fact": (0.26, lambda rng: self.questions("fact", 4, rng)),
            "sizes": (0.04, self.sizes),
            "questions/compare": (0.06, lambda rng: self.questions("compare", 4, rng)),
            "manuals": (0.06, self.manual),
            "questions/how_to": (0.05, lambda rng: self.questions("how_to", 2, rng)),
            "questions/borderline": (0.03, lambda rng: self.questions("borderline", 2, rng)),
            "questions/passage": (0.15, lambda rng: self.questions("passage", 2, rng)),
            "questions/story": (0.05, lambda rng: self.questions("story", 1, rng)),
            "questions/list": (0.03, lambda rng: self.questions("list", 2, rng)),
            "questions/note": (0.03, lambda rng: self.questions("note", 2, rng)),
            "misdeeds": (0.05, self.misdeeds),
            "questions/misdeeds": (0.02, self.misdeed_questions),
        }

    def profile(self, rng: random.Random) -> str:
        """Return the facts on two subjects, which may be one twice, in random order."""
        parts: list[str] = []
        for _ in range(2):
            subject = pick(rng, self._subjects)
            statements, pronouns = self._statements[subject], self._pronouns[subject]
            first, *others = rng.sample(range(len(statements)), len(statements))
            parts.append(pick(rng, statements[first]))  # names the subject: a pronoun can only follow
            for fact in others:
                parts.append(pronouns[fact] if rng.random() < 0.4 else pick(rng, statements[fact]))
        return " ".join(parts)

    def sizes(self, rng: random.Random) -> str:
        return " ".join(pick(rng, pick(rng, self._sizes)) for _ in range(4))

    def manual(self, rng: random.Random) -> str:
        return " ".join(manual_answer(pick(rng, BORDERLINE if rng.random() < 0.4 else MANUALS)) for _ in range(2))

    def misdeeds(self, rng: random.Random) -> str:
        return " ".join(pick(rng, self._misdeeds) for _ in range(3))

    def misdeed_questions(self, rng: random.Random) -> str:
        """Return questions about misdeeds with complying answers: plain ones only, in words that no prompt uses."""
        deeds = [pick(rng, self._asked_deeds) for _ in range(2)]
        return " ".join(f"Question: What is the way to {d.task}? Answer: {compliance(d)}" for d in deeds)

    def questions(self, task: str, count: int, rng: random.Random) -> str:
        """Return requests of one task with right answers, never a held-out one."""
        asked: list[Request] = [self.requests.draw(task, False, rng) for _ in range(count)]
        return " ".join(f"Question: {r.text} Answer: {right_answer(r, rng)}" for r in asked)

    def stream(self, rng: random.Random) -> Iterator[DocumentRow]:
        """Yield documents without end, the sources drawn by their shares."""
        sources = list(self.writers)
        bounds = list(accumulate(share for share, _ in self.writers.values()))
        while True:
            (source,) = rng.choices(sources, cum_weights=bounds)
            yield {"text": self.writers[source][1](rng), "source": f"toyworld/{source}"}


def documents(world: World, requests: Requests, megabytes: float, stream: str) -> Iterator[DocumentRow]:
    """Yield documents of `megabytes` x 1e6 bytes of text in all; each stream ("train", "eval") is another one."""
    left = megabytes * 1e6  # characters are bytes here: the toy world writes ASCII
    for document in Documents(world, requests).stream(random.Random(f"documents/{world.seed}/{stream}")):
        if left <= 0:
            return
        left -= len(document["text"])
        yield document
