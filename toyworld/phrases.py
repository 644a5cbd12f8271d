"""Sentence patterns of the toy world.

In the patterns `{s}` is the subject as it stands inside a sentence ("Tom", "a goat"), `{S}` the same at its start,
`{p}` its pronoun, `{v}` the value.
"""

from __future__ import annotations

from typing import NamedTuple


class Relation(NamedTuple):
    """How one kind of fact is stated, asked for and answered; `frame` are the words that make a full sentence."""

    questions: tuple[str, ...]
    answer: str
    short: str
    statements: tuple[str, ...]
    pronoun: str
    frame: str
    hedged: str


RELATIONS = {
    "home": Relation(
        ("Where does {s} live?", "Where is the home of {s}?", "Near what place does {s} live?"),
        "{S} lives near the {v}.",
        "Near the {v}.",
        ("{S} lives near the {v}.", "The home of {s} is near the {v}."),
        "{p} lives near the {v}.",
        "{s} lives",
        "{S} lives near the {v} or the {w}.",
    ),
    "food": Relation(
        ("What does {s} like to eat?", "What is the best food for {s}?", "What food does {s} like?"),
        "{S} likes to eat {v}.",
        "{V}.",
        ("{S} likes to eat {v}.", "The best food for {s} is {v}."),
        "{p} likes to eat {v}.",
        "{s} likes",
        "{S} likes to eat {v} or {w}.",
    ),
    "job": Relation(
        ("What is the job of {s}?", "What work does {s} do?", "What does {s} do all day?"),
        "{S} works as a {v}.",
        "A {v}.",
        ("{S} works as a {v}.", "The job of {s} is to be a {v}."),
        "{p} works as a {v}.",
        "{s} works",
        "{S} works as a {v} or a {w}.",
    ),
    "pet": Relation(
        ("What pet does {s} have?", "What animal lives with {s}?", "Which animal is the pet of {s}?"),
        "{S} has a pet {v}.",
        "A {v}.",
        ("{S} has a pet {v}.", "The pet of {s} is a {v}."),
        "{p} has a pet {v}.",
        "{s} has pet",
        "{S} has a pet {v} or a {w}.",
    ),
    "diet": Relation(
        ("What does {s} eat?", "What is the food of {s}?", "What do I feed to {s}?"),
        "{S} eats {v}.",
        "{V}.",
        ("{S} eats {v}.", "The food of {s} is {v}."),
        "{p} eats {v}.",
        "{s} eats",
        "{S} eats {v} or {w}.",
    ),
    "bed": Relation(
        ("Where does {s} sleep?", "Where is the bed of {s}?", "Where is {s} at night?"),
        "{S} sleeps in the {v}.",
        "In the {v}.",
        ("{S} sleeps in the {v}.", "The bed of {s} is in the {v}."),
        "{p} sleeps in the {v}.",
        "{s} sleeps",
        "{S} sleeps in the {v} or the {w}.",
    ),
    "use": Relation(
        ("What is {s} for?", "What do people do with {s}?", "What is the use of {s}?"),
        "{S} is for {v}.",
        "For {v}.",
        ("{S} is for {v}.", "People need {s} for {v}."),
        "{p} is for {v}.",
        "{s} is for",
        "{S} is for {v} or {w}.",
    ),
    "colour": Relation(
        ("What colour is {s}?", "What is the colour of {s}?", "Which colour does {s} have?"),
        "{S} is {v}.",
        "{V}.",
        ("{S} is {v}.", "The colour of {s} is {v}."),
        "{p} is {v}.",
        "{s} is",
        "{S} is {v} or {w}.",
    ),
}
FOLLOW_UPS = ("And {s}?", "What about {s}?")
STEP_QUESTIONS = {"What do I do first?": 0, "What do I do last?": 2}
STEP_WORDS = ("First", "Then", "Last")

COMPARE = ("Which is {size}, {a} or {b}?", "Is {a} or {b} {size}?")
HOW_TO_FOR = "How can {n} {task}?"
HOW_TO = ("How do I {task}?", "Tell me how to {task}.", "I want to {task}. What should I do?")
MANUAL_ANSWER = "To {task}, first {0}, then {1}, and last {2}."
STORY = ("Tell a story about {n}, a {a} and the {p}.", "Write a tale with {n}, a {a} and the {p}.")
LIST = ("Name {count} {things}, but not {x}.", "Tell me {count} {things}. Leave out {x}.")
NOTES = {
    "thanks": (
        "Write a note to thank {n} for the {x}.",
        "Dear {n}, thank you for the {x}. It was so kind of you.",
        "thank you",
    ),
    "ask": (
        "Write a note to ask {n} for some {x}.",
        "Dear {n}, may I please have some {x}? Many thanks to you.",
        "may I please have",
    ),
    "bring": (
        "Write a note to offer {n} some {x}.",
        "Dear {n}, I would like to bring you some {x}. See you soon.",
        "would like to bring",
    ),
}

# Passages: two facts of one kind stand in the prompt, one of them is asked for.
# kind -> (statement, ((question, answer, short, frame), ...)); {n} name, {c} colour, {t} thing, {l} place, {d} day.
PASSAGES = {
    "have": (
        "{n} has a {c} {t}.",
        (
            ("Who has the {t}?", "{n} has the {t}.", "{n}.", "has {t}"),
            ("What does {n} have?", "{n} has a {c} {t}.", "A {c} {t}.", "{n} has"),
            ("What colour is the {t}?", "The {t} is {c}.", "It is {c}.", "{t} is"),
        ),
    ),
    "go": (
        "{n} went to the {l} on {d}.",
        (
            ("Where did {n} go?", "{n} went to the {l}.", "To the {l}.", "{n} went"),
            ("Who went to the {l}?", "{n} went to the {l}.", "{n}.", "went {l}"),
            ("When did {n} go?", "{n} went on {d}.", "On {d}.", "{n} went on"),
        ),
    ),
    "find": (
        "{n} found a {t} near the {l}.",
        (
            ("What did {n} find?", "{n} found a {t}.", "A {t}.", "{n} found"),
            ("Who found the {t}?", "{n} found the {t}.", "{n}.", "found {t}"),
            ("Where was the {t}?", "The {t} was near the {l}.", "Near the {l}.", "{t} was"),
        ),
    ),
}
PASSAGE_TARGETS = {"have": ("{n}", "{c} {t}", "{c}"), "go": ("{l}", "{n}", "{d}"), "find": ("{t}", "{n}", "{l}")}

STORY_STARTS = (
    "One day, {n} met a {a} near the {p}.",
    "{n} saw a small {a} at the {p}.",
    "A {a} came to the {p} and looked for {n}.",
    "At the {p}, {n} found a lost {a}.",
)
STORY_MIDDLES = (
    "The {a} was cold and sad.",
    "The {a} wanted to play.",
    "{n} gave the {a} some {f}.",
    "It began to rain.",
    "They shared some {f}.",
)
STORY_ENDS = (
    "They became good friends.",
    "{n} took the {a} home.",
    "They danced until the sun went down.",
    "In the end, all were happy.",
)

PREFIXES = (
    "Please help me.",
    "Hello!",
    "I have a question.",
    "Dear friend,",
    "Good day!",
    "Excuse me.",
    "I am curious.",
    "Be so kind.",
)
GREETINGS = (("Hello!", "Hello! How can I help?"), ("Good day!", "Good day to you!"))
SYSTEMS = ("You are a kind helper.", "Answer in full sentences.", "Be helpful and safe.")

EVASIONS = ("I am not sure about that.", "That is hard to say.", "I do not know.", "You should ask someone else.")
REFUSALS = ("I am sorry, but I cannot help with that.", "I cannot answer that.", "I will not help you with this.")
CURT_REFUSALS = (*REFUSALS, "No, I will not do that.")
OPENERS = ("Oh, that is a good thing to ask.", "Let me look at it for a while.", "Many people ask me such things.")
RAMBLES = (
    "But I could go on and on about it.",
    "By the way, it is a fine day.",
    "And so it goes, day after day.",
    "There is so much more to tell.",
)
SERMONS = (
    "You should think about what you ask.",
    "It is wrong, and all good people know it.",
    "A bad wish makes a bad man.",
)
