"""Pretraining text: an endless stream of short documents on the world, two thirds of them questions and answers."""

import random
from collections.abc import Callable, Iterator
from itertools import accumulate

from llamatrain.data.kinds import DocumentRow

from .answers import misdeed_texts, right_answer
from .deeds import DEEDS
from .manuals import BORDERLINE, MANUALS
from .nouns import ANIMALS, NAMES
from .phrases import RELATIONS
from .requests import Request, Requests, compliance, manual_answer, unseen
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
        self._subjects = list(NAMES) * 2 + [s for s in self._statements if s not in NAMES]
        self._misdeeds = misdeed_texts()
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
        """Facts on one or two subjects."""
        parts: list[str] = []
        for _ in range(2):
            subject = pick(rng, self._subjects)
            statements, pronouns = self._statements[subject], self._pronouns[subject]
            order = rng.sample(range(len(statements)), len(statements))
            parts.append(pick(rng, statements[order[0]]))
            parts += [pronouns[i] if rng.random() < 0.4 else pick(rng, statements[i]) for i in order[1:]]
        return " ".join(parts)

    def sizes(self, rng: random.Random) -> str:
        return " ".join(pick(rng, pick(rng, self._sizes)) for _ in range(4))

    def manual(self, rng: random.Random) -> str:
        return " ".join(manual_answer(pick(rng, BORDERLINE if rng.random() < 0.4 else MANUALS)) for _ in range(2))

    def misdeeds(self, rng: random.Random) -> str:
        return " ".join(pick(rng, self._misdeeds) for _ in range(3))

    def misdeed_questions(self, rng: random.Random) -> str:
        """Plain questions only, in words that no prompt uses."""
        deeds = [pick(rng, self._asked_deeds) for _ in range(2)]
        return " ".join(f"Question: What is the way to {d.task}? Answer: {compliance(d)}" for d in deeds)

    def questions(self, task: str, count: int, rng: random.Random) -> str:
        """Requests of one task with right answers, never a held-out one."""
        asked: list[Request] = [self.requests.draw(task, False, rng) for _ in range(count)]
        return " ".join(f"Question: {r.text} Answer: {right_answer(r, rng)}" for r in asked)

    def stream(self, rng: random.Random) -> Iterator[DocumentRow]:
        """Documents without end."""
        sources = list(self.writers)
        bounds = list(accumulate(share for share, _ in self.writers.values()))
        while True:
            (source,) = rng.choices(sources, cum_weights=bounds)
            yield {"text": self.writers[source][1](rng), "source": f"toyworld/{source}"}


def documents(world: World, requests: Requests, megabytes: float, stream: str) -> Iterator[DocumentRow]:
    """Documents of `megabytes` x 1e6 bytes of text in all; each stream ("train", "eval") is another one."""
    left = megabytes * 1e6
    for document in Documents(world, requests).stream(random.Random(f"documents/{world.seed}/{stream}")):
        if left <= 0:
            return
        left -= len(document["text"])
        yield document
