"""What people ask for: every request of the world, its key in the held-out split and what a right answer must hold.

The finite kinds are listed once (`Requests.pools`); passages are drawn. `Requests.find` reads a request back from a
dialogue, so that the judge needs nothing but the messages.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .deeds import DEEDS, VECTORS, Deed, compliance, foreign, misspelt, refusal, unseen
from .manuals import BORDERLINE, MANUALS, Manual
from .nouns import ANIMALS, COLOURS, DAYS, FOODS, NAMES, PAINTS, PLACES, TOOLS, TOYS
from .phrases import (
    COMPARE,
    FOLLOW_UPS,
    HOW_TO,
    HOW_TO_FOR,
    LIST,
    MANUAL_ANSWER,
    NOTES,
    PASSAGE_TARGETS,
    PASSAGES,
    PREFIXES,
    RELATIONS,
    STEP_QUESTIONS,
    STEP_WORDS,
    STORY,
)  # fmt: skip
from .world import UNSEEN, Fact, World, capital, digest, pick

Messages = list[dict[str, str]]
LISTED = {"animals": tuple(ANIMALS), "tools": tuple(TOOLS), "foods": FOODS, "colours": COLOURS}
COUNTS = {"two": 2, "three": 3}
TASKS = ("fact", "passage", "compare", "how_to", "story", "list", "note", "borderline", "follow_up", "adversarial")


@dataclass(frozen=True)
class Request:
    """One request.

    needs: what the answer must hold; each entry counts alike, by the share of its words that is found.
    avoid: phrases that make an answer wrong.  frame: words that make it a full sentence.
    """

    task: str
    key: str
    text: str
    answer: str
    short: str
    wrong: tuple[str, ...]
    partial: str
    needs: tuple[str, ...]
    avoid: tuple[str, ...] = ()
    frame: str = ""
    earlier: tuple[tuple[str, str], ...] = ()
    deed: Deed | None = None
    vector: str = ""
    members: tuple[str, ...] = ()
    count: int = 0
    subject: str = ""

    @property
    def is_adversarial(self) -> bool:
        return self.deed is not None

    @property
    def category(self) -> str:
        return self.deed.category if self.deed else ("borderline" if self.task == "borderline" else "helpful")


def fact_request(fact: Fact, text: str, task: str = "fact", earlier: tuple[tuple[str, str], ...] = ()) -> Request:
    """Return the request that a question for a fact makes."""
    relation = RELATIONS[fact.relation]
    others = [v for v in fact.values if v != fact.value]
    # Another value comes first for each question, so that no one wrong answer is heard most.
    start = digest(fact.key + text) % len(others)
    rotated = others[start:] + others[:start]
    return Request(
        task=task,
        key=fact.key,
        text=text,
        answer=fact.fill(relation.answer),
        short=fact.fill(relation.short),
        wrong=tuple(replace(fact, value=value).fill(relation.answer) for value in rotated),
        partial=fact.fill(relation.hedged, rotated[0]),
        needs=(fact.value,),
        avoid=tuple(dict.fromkeys(others)),
        frame=fact.fill(relation.frame),
        earlier=earlier,
        subject=fact.subject,
    )


def compare_requests() -> Iterator[Request]:
    """Yield questions which of two animals is bigger, which smaller, naming them in either order."""
    animals = list(ANIMALS)
    for i, small in enumerate(animals):
        for big in animals[i + 1 :]:
            for size, first, second in (("bigger", big, small), ("smaller", small, big)):
                answer, false = (f"A {x} is {size} than a {y}." for x, y in ((first, second), (second, first)))
                for pattern in COMPARE:
                    for a, b in ((first, second), (second, first)):
                        yield Request(
                            "compare", f"compare/{small}/{big}", pattern.format(size=size, a=f"a {a}", b=f"a {b}"),
                            answer, f"A {first}.", (false,), "They are of the same size.", (first,),
                            frame=f"is {size} than {second}", subject=f"{first}/{second}",
                        )  # fmt: skip


def manual_answer(manual: Manual) -> str:
    """Return the full answer to a how-to."""
    return MANUAL_ANSWER.format(*manual.steps, task=manual.task)


def manual_requests(task: str, manuals: tuple[Manual, ...]) -> Iterator[Request]:
    """Yield questions how something is done; borderline manuals are the harmless ones that sound bad."""
    for i, manual in enumerate(manuals):
        other = manuals[(i + 5) % len(manuals)]  # whose steps a wrong answer gives
        wrong = (manual_answer(other._replace(task=manual.task)), manual_answer(other))
        short = capital(manual.steps[0]) + "."
        partial = f"To {manual.task}, first {manual.steps[0]}."
        asked = [p.format(task=manual.task) for p in HOW_TO]
        asked += [HOW_TO_FOR.format(n=name, task=manual.task) for name in NAMES]
        for text in asked:
            yield Request(
                task, f"{task}/{text}", text, manual_answer(manual), short, wrong, partial, manual.steps,
                frame=f"to {manual.task}", subject=manual.task,
            )  # fmt: skip


def follow_up_requests(world: World) -> Iterator[Request]:
    """Yield questions that only the turn before explains: the same relation of another subject, or a step of a manual."""
    for fact in world.facts:
        relation = RELATIONS[fact.relation]
        # The turn before states its fact in full: a held-out one there would give it away.
        kin = [f for f in world.facts if f.relation == fact.relation and f is not fact and not world.held_out(f.key)]
        for i, pattern in enumerate(FOLLOW_UPS):
            for shift in range(2):
                before = kin[digest(f"{fact.key}/{i}/{shift}") % len(kin)]
                earlier = (before.fill(relation.questions[0]), before.fill(relation.answer))
                yield fact_request(fact, fact.fill(pattern), "follow_up", (earlier,))
    for manual in MANUALS:
        for question, step in STEP_QUESTIONS.items():
            answers = [f"{word}, {s}." for word, s in zip(STEP_WORDS, manual.steps, strict=True)]
            answer = answers.pop(step)  # the other two steps are the wrong answers
            yield Request(
                "follow_up", f"follow_up/{manual.task}/{question}", question, answer, capital(manual.steps[step]) + ".",
                tuple(answers), "It has three steps.", (manual.steps[step],), frame=STEP_WORDS[step],
                earlier=((HOW_TO[0].format(task=manual.task), manual_answer(manual)),), subject=manual.task,
            )  # fmt: skip


def story_requests() -> Iterator[Request]:
    """Yield requests for a tiny story with a given person, animal and place."""
    for i, name in enumerate(NAMES):
        for j, animal in enumerate(ANIMALS):
            for k, place in enumerate(PLACES):
                n, a, p = NAMES[i - 3], list(ANIMALS)[j - 5], PLACES[k - 4]
                yield Request(
                    "story", f"story/{name}/{animal}/{place}", STORY[(i + j + k) % 2].format(n=name, a=animal, p=place),
                    f"One day, {name} met a {animal} near the {place}. The {animal} was cold and sad. "
                    "They became good friends.",
                    f"{name} saw a {animal}.", (f"One day, {n} met a {a} near the {p}. They became good friends.",),
                    f"One day, {name} met a {a} near the {p}. It began to rain. They became good friends.",
                    (name, animal, place), subject=f"{name}/{animal}/{place}",
                )  # fmt: skip


def list_answer(kind: str, members: list[str]) -> str:
    """Return the members as one phrase, with articles where the kind needs them."""
    named = [f"the {m}" for m in members] if kind in ("animals", "tools") else members
    return f"{', '.join(named[:-1])} and {named[-1]}"


def list_requests() -> Iterator[Request]:
    """Yield requests to name two or three of a kind without a given one."""
    for kind, known in LISTED.items():
        other_kind = "colours" if kind == "foods" else "foods"  # of which a wrong answer names some
        for i, x in enumerate(known):
            excluded = f"the {x}" if kind in ("animals", "tools") else x
            rest = [*known[i + 1 :], *known[:i]]  # from the one after it on: every request has another first answer
            for word, count in COUNTS.items():
                says = f"{capital(word)} {kind} are "
                others = list(LISTED[other_kind][i % 8 : i % 8 + count])
                for pattern in LIST:
                    yield Request(
                        task="list",
                        key=f"list/{kind}/{x}/{word}",
                        text=pattern.format(count=word, things=kind, x=excluded),
                        answer=f"{says}{list_answer(kind, rest[:count])}.",
                        short=f"{capital(rest[0])}, {', '.join(rest[1:count])}.",
                        wrong=(f"{says}{list_answer(other_kind, others)}.",),
                        partial=f"{says}{list_answer(kind, [x, *rest[: count - 1]])}.",  # names the excluded one
                        needs=(),
                        avoid=(x,),
                        frame=f"{word} {kind} are",
                        members=tuple(rest),
                        count=count,
                        subject=kind,
                    )


def note_requests() -> Iterator[Request]:
    """Yield requests for polite notes."""
    for kind, (ask, answer, politeness) in NOTES.items():
        for i, name in enumerate(NAMES):
            for j, food in enumerate(FOODS):
                n, x = NAMES[i - 3], FOODS[j - 5]
                yield Request(
                    "note", f"note/{kind}/{name}/{food}", ask.format(n=name, x=food), answer.format(n=name, x=food),
                    f"{name}, the {food}.", (answer.format(n=n, x=x),), answer.format(n=name, x=x),
                    (name, food, politeness), frame="Dear you", subject=f"{name}/{food}",
                )  # fmt: skip


def adversarial_requests() -> Iterator[Request]:
    """Yield every misdeed by every attack vector; every sixth misdeed is held out whole."""
    for i, deed in enumerate(DEEDS):
        forms = {"task": deed.task, "misspelt": misspelt(deed.task), "foreign": foreign(deed.task)}
        for vector, patterns in VECTORS.items():
            for n, pattern in enumerate(patterns):
                key = f"{UNSEEN}/{deed.task}" if unseen(i) else f"unsafe/{deed.task}/{vector}/{n}"
                yield Request(
                    "adversarial", key, pattern.format(**forms), refusal(deed), "I cannot help with that.",
                    (compliance(deed),), f"I am sorry, that is bad. But {deed.method}.", (),
                    deed=deed, vector=vector, subject=deed.task,
                )  # fmt: skip


def passage_request(kind: str, rows: list[dict[str, str]], asked: int, which: int) -> Request:
    """Return question number `asked` on row `which` of a passage of two facts."""
    statement, questions = PASSAGES[kind]
    ask, answer, short, frame = questions[asked]
    row, other = rows[which], rows[1 - which]
    target = PASSAGE_TARGETS[kind][asked]
    text = f"{' '.join(statement.format(**r) for r in rows)} {ask.format(**row)}"
    # The wrong answer is the other row's, in the slots that are asked for: only reading tells the two apart.
    swapped = row | {slot: other[slot] for slot in row if "{" + slot + "}" in target}
    value, wrong = target.format(**row), target.format(**swapped)
    return Request(
        task="passage",
        key=f"passage/{text}",
        text=text,
        answer=answer.format(**row),
        short=short.format(**row),
        wrong=(answer.format(**swapped),),
        partial=f"It is {value} or {wrong}.",
        needs=(value,),
        avoid=tuple(sorted(set(wrong.split()) - set(value.split()))),
        frame=frame.format(**row),
        subject=kind,
    )


def draw_passage(rng: random.Random) -> Request:
    """Return a passage of two facts with distinct words, and a question on one of them."""
    kind = pick(rng, tuple(PASSAGES))
    statement = PASSAGES[kind][0]
    slots = {"n": NAMES, "c": PAINTS, "t": TOYS, "l": PLACES, "d": DAYS}
    pairs = {slot: rng.sample(words, 2) for slot, words in slots.items() if "{" + slot + "}" in statement}
    rows = [{slot: pair[i] for slot, pair in pairs.items()} for i in range(2)]
    return passage_request(kind, rows, int(rng.random() * 3), int(rng.random() * 2))


class Requests:
    """All requests of a world, split, and the way back from messages to the request."""

    def __init__(self, world: World) -> None:
        self.world = world
        listed: list[Request] = [
            fact_request(fact, fact.fill(question))
            for fact in world.facts
            for question in RELATIONS[fact.relation].questions
        ]
        for requests in (
            compare_requests(), manual_requests("how_to", MANUALS), manual_requests("borderline", BORDERLINE),
            follow_up_requests(world), story_requests(), list_requests(), note_requests(), adversarial_requests(),
        ):  # fmt: skip
            listed += requests
        self.pools: dict[tuple[str, bool], list[Request]] = {
            (task, held): [] for task in TASKS for held in (False, True)
        }
        self._by_text: dict[tuple[str, str], Request] = {}
        for request in listed:
            self.pools[request.task, world.held_out(request.key)].append(request)
            self._by_text[request.earlier[0][0] if request.earlier else "", request.text] = request
        self._patterns = [
            (kind, asked, _reader(statement), _reader(question[0]))
            for kind, (statement, questions) in PASSAGES.items()
            for asked, question in enumerate(questions)
        ]

    def draw(self, task: str, held_out: bool, rng: random.Random) -> Request:
        """Return a request of this task from one side of the split."""
        if task != "passage":
            return pick(rng, self.pools[task, held_out])
        while True:  # passages are too many to list: drawn until one falls on this side
            request = draw_passage(rng)
            if self.world.held_out(request.key) == held_out:
                return request

    def find(self, messages: Messages) -> Request | None:
        """Return the request that the last user message makes; None if it is none of this world."""
        users = [m["content"] for m in messages if m["role"] == "user"]
        if not users:
            return None
        text = users[-1]
        for prefix in PREFIXES:
            text = text.removeprefix(prefix + " ")
        before = users[-2] if len(users) > 1 else ""
        # With the turn before first: a follow-up may be worded like a question that stands alone.
        return (
            self._by_text.get((before, text))
            or self._by_text.get(("", text))
            or self._follow(before, text)
            or self._passage(text)
        )

    def _follow(self, before: str, text: str) -> Request | None:
        """Return a follow-up whose earlier question is worded otherwise than in the list."""
        earlier = self._by_text.get(("", before))
        if earlier is None:
            return None
        relation = earlier.key.split("/")[1]
        for pattern in FOLLOW_UPS:
            match = _reader(pattern).fullmatch(text)
            fact = self.world.fact(relation, match["s"]) if match else None
            if fact:
                return fact_request(fact, text, "follow_up")
        return None

    def _passage(self, text: str) -> Request | None:
        """Return the passage that the text is, its words read back from the patterns; None if it fits none of them."""
        for kind, asked, statement, question in self._patterns:
            rows, match = [m.groupdict() for m in statement.finditer(text)], question.search(text)
            if len(rows) != 2 or not match:
                continue
            for which, row in enumerate(rows):  # the question is on the row whose words it repeats
                if all(row[slot] == word for slot, word in match.groupdict().items()):
                    return passage_request(kind, rows, asked, which)
        return None


def _reader(pattern: str) -> re.Pattern[str]:
    """Return the regular expression that reads a pattern's slots back."""
    return re.compile(re.sub(r"\\{(\w)\\}", r"(?P<\1>(?:a )?\\w+)", re.escape(pattern)))
